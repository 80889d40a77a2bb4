"""Short runs with the package's own loop, and their results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from hpc_localsgd.commands.verify.problem import SEED, Problem
from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.engine.optimizer import LocalOptimizer
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.checkpoint import Checkpoints, RankCheckpoint
from hpc_localsgd.run.probes import Measurement, Probe, View
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.schedules.local_steps import Schedule, every, post_local
from hpc_localsgd.schedules.rates import constant

if TYPE_CHECKING:
    from hpc_localsgd.algorithms.base import Algorithm
    from hpc_localsgd.trajectory import Writer
    from hpc_localsgd.types import Rows, Vector
    from hpc_localsgd.worlds.base import World

STEPS = 9  # rounds of 1, 3, 3 and 2 steps
SAVED_AT = 5  # in the middle of a round
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4


@dataclass(frozen=True)
class Trial:
    """A run of an algorithm with SGD with momentum, a few steps long."""

    problem: Problem
    algorithm: Algorithm
    schedule: Schedule | None = None

    def run(self, world: World, vmapped: bool | None = None) -> Run:
        """Make the objects of the run, with a new task. All ranks together."""
        task = self.problem.task(world, vmapped)
        torch.manual_seed(SEED + world.local_workers[0])  # for a model that draws random numbers
        return Run(
            task=task,
            algorithm=self.algorithm,
            schedule=self.schedule or schedule_for(self.algorithm),
            rate=constant(self.problem.lr),
            optimizer=LocalOptimizer(_sgd, task),
            batchnorm=BatchNorm(),
            world=world,
            steps=STEPS,
        )


@dataclass(frozen=True)
class Outcome:
    """End of a trial.

    Attributes:
        x: [R, P], the workers of this process.
        mean: [P], the model to evaluate.
        faults: Rounds in which a worker sent other bytes than the algorithm declares.
    """

    x: Rows
    mean: Vector
    faults: Sequence[str]


def finished(
    trial: Trial, world: World, vmapped: bool | None = None, folder: Path | None = None
) -> Outcome:
    """Run a trial to its end; with a folder, save a checkpoint on the way."""
    run, sent = trial.run(world, vmapped), Sent()
    keep = [Keep(Checkpoints(folder, world))] if folder else []
    p = train(run, run.beginning(), Recorder(run, keep, writer=sent.as_writer()))
    equal = run.algorithm.ends_equal  # then every worker is the mean
    mean = p.x[0] if equal else run.algorithm.readout(p.x, p.state, world)
    return Outcome(p.x.clone(), mean.clone(), sent.faults(run))


def resumed(trial: Trial, world: World, folder: Path) -> Rows:
    """Return the workers [R, P] at the end of a trial resumed from the checkpoint in the folder."""
    run = trial.run(world)
    p = Checkpoints(folder, world).load().restore(run, run.beginning())
    p.state = run.algorithm.resume(p.state, world)
    return train(run, p, Recorder(run)).x.clone()


def schedule_for(algorithm: Algorithm) -> Schedule:
    """Return parallel rounds, local ones and a short last one; single steps if need be."""
    return every(1) if algorithm.only_single_steps else post_local(switch=1, every=3)


@dataclass(frozen=True)
class Keep(Probe):
    """Probe that saves a run once on its way."""

    checkpoints: Checkpoints
    every: int = SAVED_AT

    def due(self, t: int, steps: int) -> bool:
        """Return whether the step is the one at which to save."""
        del steps
        return t == SAVED_AT

    def measure(self, view: View) -> Iterator[Measurement]:
        """Yield nothing: this probe only saves."""
        self.checkpoints.save(RankCheckpoint.of(view.run, view.p, view.p.t))
        yield from ()


@dataclass
class Sent:
    """Substitute for the writer of a trajectory, which keeps what every worker sent [K]."""

    rounds: list[tuple[int, int, np.ndarray]] = field(default_factory=list)

    def as_writer(self) -> Writer:
        """Return itself as a writer: the recorder needs no more of one."""
        return cast("Writer", self)

    def round(
        self, *, step_begin: int, step_end: int, payload_bytes: np.ndarray, **others: Any
    ) -> None:
        """Keep one row."""
        del others
        self.rounds.append((step_begin, step_end, payload_bytes))

    def series(self, *values: Any, **others: Any) -> None:
        """Ignore a series."""
        del values, others

    def faults(self, run: Run) -> list[str]:
        """Return the rounds in which the ledger counted other bytes than the algorithm declares."""
        model = run.task.model_size
        found, place = [], Position(run.task.x, {}, run.schedule)
        for s, (begin, end, billed) in enumerate(self.rounds):
            place.t = begin
            place = place.next_round(end - begin)
            now = place.now(run, end - 1)
            declared = np.asarray(run.algorithm.payload(model, run.world.K, now), float)
            if not np.array_equal(billed, np.broadcast_to(declared, billed.shape)):
                found.append(f"round {s}: declared {_bytes(declared)}, sent {_bytes(billed)}")
        return found


def _bytes(values: np.ndarray) -> str:
    return f"{', '.join(f'{v:g}' for v in np.unique(values))} bytes"


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
