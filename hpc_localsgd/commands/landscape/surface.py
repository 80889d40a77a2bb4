"""The loss at any point: BatchNorm re-estimated there, then training subset and test set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.curvature import in_chunks, pieces
from hpc_localsgd.curvature.subset import of_full_size, subset_size

if TYPE_CHECKING:
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import Vector

NAMES = ("train_loss", "test_loss", "test_accuracy")


class Surface:
    """Loss and accuracy of a task as functions of one vector, on a fixed subset.

    Attributes:
        samples: Size of the training subset.
        like: A vector of the dtype and device of the computation.
    """

    def __init__(self, task: Task, samples: int, chunk: int, test: bool = True) -> None:
        """Take the subset.

        Args:
            task: From `build_for_curvature`.
            samples: Size of the subset; 0 for the whole training set.
            chunk: Samples in one pass.
            test: Whether the test set is looked at too, if the task has one.
        """
        self._task = task
        self.samples = subset_size(task, samples or None)
        self.like = task.x[0]
        parts = pieces(task, self.samples)
        self._chunks = in_chunks(parts, chunk)
        self._estimated = of_full_size(task, parts, self.samples)
        held = task.splits.get("test", 0) if test else 0
        # Evenly spaced: a test set may be sorted by class.
        self._test = range(0, held, -(-held // samples) if samples and held else 1)

    @torch.no_grad()
    def at(self, x: Vector) -> np.ndarray:
        """Return training loss, test loss and accuracy at x [P]: float64 ``[3]``, NaN if none."""
        task = self._task
        buffers = task.buffers[0]
        if buffers.numel():
            buffers = task.statistics(x, self._estimated)
        parts = [task.loss(x, c, buffers).double() * len(c[1]) for c in self._chunks]
        found = [float(torch.stack(parts).sum()) / self.samples, np.nan, np.nan]
        if len(self._test):
            loss, right, count = task.evaluate(x, "test", self._test, buffers).tolist()
            found[1:] = [loss / count, right / count]
        return np.array(found)


def shapes_of(task: Task) -> list[tuple[int, ...]]:
    """Return the shapes of the model's tensors, in the order of the vector.

    A task that has no layout says only how long they are; those with weight decay then count as one
    filter each, the others as vectors.
    """
    layout = getattr(task, "layout", None)
    if layout is not None:
        return [tuple(shape) for shape in layout.shapes]
    found: list[tuple[int, ...]] = []
    at = 0
    for size in task.sizes:
        found.append((1, size) if at < task.decayed else (size,))
        at += size
    return found
