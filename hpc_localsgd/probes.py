"""Probes: what is measured during a run. Each owns its cadence; the writer owns storage.

A probe measures at steps that are a pure function of the run's length, so all ranks take part in
its collectives at the same moment, and a resumed run measures where the uninterrupted one would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_localsgd.plan.partition import share

if TYPE_CHECKING:
    from hpc_localsgd.loop import Position, Run
    from hpc_localsgd.types import Now, Rows, Vector
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class Measurement:
    """One value of a series, or one snapshot (`name == "snapshot"`)."""

    name: str
    value: Any
    units: str = "1"
    dims: tuple[str, ...] = ()
    meaning: str = ""


@dataclass
class View:
    """What probes see of a run at step t. The mean model is worked out once, when first asked."""

    run: Run
    p: Position

    @cached_property
    def mean(self) -> Vector:
        """The model to evaluate, [P]. A collective."""
        return self.run.algorithm.readout(self.p.x, self.p.sync, self.run.world)

    @cached_property
    def buffers(self) -> Vector:
        """The buffers [Q] to evaluate it with. A collective."""
        return self.run.batchnorm.for_evaluation(self.mean, self.run.task, self.run.world)


class Probe(ABC):
    """Something measured every so many steps, and at the end.

    Attributes:
        every: Cadence in steps; 0 means never, except at the end if `at_end`.
    """

    every: int

    def due(self, t: int, steps: int) -> bool:
        """Whether to measure after t steps of a run of `steps`."""
        return self.every > 0 and (t % self.every == 0 or t == steps)

    @abstractmethod
    def measure(self, view: View) -> Iterator[Measurement]:
        """The values at this moment, the same on all ranks. May use collectives."""


@dataclass(frozen=True)
class Evaluation(Probe):
    """Loss and accuracy of the mean model on whole splits; no sample is dropped.

    Every worker evaluates its share of the samples and the sums are added in the order of the
    workers, so the result does not depend on the number of ranks.

    Attributes:
        every: Cadence in steps.
        splits: Which splits.
        per_worker: Also evaluate every worker's own model, with its own buffers.
    """

    every: int
    splits: tuple[str, ...] = ("test",)
    per_worker: bool = False

    def measure(self, view: View) -> Iterator[Measurement]:
        """`eval/<split>/loss`, `eval/<split>/accuracy`, and per worker if asked."""
        for split in self.splits:
            loss, accuracy = self._of_mean(view, split)
            yield Measurement(f"eval/{split}/loss", loss, "nat", (), "mean model")
            yield Measurement(f"eval/{split}/accuracy", accuracy, "fraction", (), "mean model")
            if self.per_worker:
                rows = self._of_workers(view, split)
                name = f"eval/{split}/worker"
                yield Measurement(f"{name}_loss", rows[:, 0], "nat", ("worker",), "own model")
                yield Measurement(
                    f"{name}_accuracy", rows[:, 1], "fraction", ("worker",), "own model"
                )

    def _of_mean(self, view: View, split: str) -> tuple[float, float]:
        task, world = view.run.task, view.run.world
        count, x, buffers = task.splits[split], view.mean, view.buffers
        shares = [share(count, k, world.size) for k in world.ranks]
        rows = torch.stack([task.evaluate(x, split, rows, buffers) for rows in shares])
        loss, right, samples = world.gather(rows.cpu().numpy()).sum(0)
        return loss / samples, right / samples

    def _of_workers(self, view: View, split: str) -> np.ndarray:
        """Mean loss and accuracy of every worker's own model, [K, 2]."""
        task, world = view.run.task, view.run.world
        whole = range(task.splits[split])
        own = zip(view.p.x, task.buffers, strict=True)
        rows = torch.stack([task.evaluate(x, split, whole, buffers) for x, buffers in own])
        gathered = world.gather(rows.cpu().numpy())
        return np.asarray(gathered[:, :2] / gathered[:, 2:])


@dataclass(frozen=True)
class Skipped(Probe):
    """How many damaged samples were left out so far, where a task may do so.

    Attributes:
        every: Cadence in steps.
    """

    every: int

    def measure(self, view: View) -> Iterator[Measurement]:
        """`data/skipped`: over all workers; a sample counts every time it was due."""
        mine = getattr(view.run.task, "skipped", [])
        if mine:
            counts = view.run.world.gather(np.array(mine, dtype=np.float64)[:, None])
            meaning = "damaged samples left out so far, every time one was due"
            yield Measurement("data/skipped", float(counts.sum()), "1", (), meaning)


@dataclass(frozen=True)
class Snapshot(Probe):
    """Parameters of the mean model, and of every worker if asked.

    Attributes:
        every: Cadence in steps.
        workers: Also keep all K models: K + 1 times the disk space.
    """

    every: int
    workers: bool = False

    def measure(self, view: View) -> Iterator[Measurement]:
        """`snapshot`: (mean [P], workers [K, P] or None)."""
        mean = view.mean.cpu().numpy()
        rows = view.run.world.gather(view.p.x.cpu().numpy()) if self.workers else None
        yield Measurement("snapshot", (mean, rows))


@dataclass
class Spread:
    """Consensus distance just before an exchange: mean_k ||x_k - mean||^2.

    Where the algorithm leaves all workers at their mean, the mean is known after the exchange and
    costs nothing; elsewhere it takes a collective of its own, which is not billed. Rounds of length
    1 of algorithms that end equal are not measured: it would cost a copy of the parameters at
    every step.

    Attributes:
        every: Measured at the first exchange after each multiple of so many steps.
    """

    every: int
    _before: Rows | None = field(default=None, repr=False)

    def before_sync(self, run: Run, p: Position, now: Now) -> None:
        """Keep the parameters, when a measurement is due."""
        due = self.every > 0 and (p.t // self.every > p.begin // self.every or p.t == run.steps)
        self._before = p.x.clone() if due and (now.H > 1 or not run.algorithm.ends_equal) else None

    def after_sync(self, run: Run, p: Position) -> Iterator[Measurement]:
        """`spread`, if it was due."""
        if self._before is None:
            return
        known = p.x[0] if run.algorithm.ends_at_mean else None
        value = spread(self._before, known, run.world)
        self._before = None
        yield Measurement("spread", value, "1", (), "mean_k ||x_k - mean||^2 before the exchange")


def spread(x: Rows, mean: Vector | None, world: World) -> float:
    """mean_k ||x_k - mean||^2 of the rows x [R, P], on every rank. A collective, not billed.

    Args:
        x: [R, P]; kept as it is.
        mean: [P], if it is known already.
        world: Who the workers are.
    """
    with world.ledger.unbilled():
        mean = world.mean(x.clone())[0] if mean is None else mean
        apart = (x - mean).double().square().sum(1)
        return float(world.gather(apart.cpu().numpy()).mean())
