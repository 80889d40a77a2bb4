"""Loss and accuracy on whole splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from hpc_localsgd.run.probes.base import Measurement, Probe, View
from hpc_localsgd.tasks.partition import share


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
        """Yield `eval/<split>/loss`, `eval/<split>/accuracy`, and per worker if asked."""
        for split in self.splits:
            loss, accuracy, n = self._of_mean(view, split)
            yield Measurement(f"eval/{split}/loss", loss, "nat", (), "mean model", n)
            yield Measurement(f"eval/{split}/accuracy", accuracy, "fraction", (), "mean model", n)
            if self.per_worker:
                rows = self._of_workers(view, split)
                name = f"eval/{split}/worker"
                own = (("worker",), "own model", n)
                yield Measurement(f"{name}_loss", rows[:, 0], "nat", *own)
                yield Measurement(f"{name}_accuracy", rows[:, 1], "fraction", *own)

    def _of_mean(self, view: View, split: str) -> tuple[float, float, int]:
        """Mean loss, accuracy, and the number of samples they are means over."""
        task, world = view.run.task, view.run.world
        count, x, buffers = task.splits[split], view.mean, view.buffers
        shares = [share(count, k, world.K) for k in world.local_workers]
        rows = torch.stack([task.evaluate(x, split, rows, buffers) for rows in shares])
        loss, right, samples = world.gather(rows.cpu().numpy()).sum(0)
        return loss / samples, right / samples, round(samples)

    def _of_workers(self, view: View, split: str) -> np.ndarray:
        """Return the mean loss and accuracy of every worker's own model, [K, 2]."""
        task, world = view.run.task, view.run.world
        whole = range(task.splits[split])
        own = zip(view.p.x, task.buffers, strict=True)
        rows = torch.stack([task.evaluate(x, split, whole, buffers) for x, buffers in own])
        gathered = world.gather(rows.cpu().numpy())
        return np.asarray(gathered[:, :2] / gathered[:, 2:])
