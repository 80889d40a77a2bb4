"""Tasks whose gradient is taken at another point than x, by one pass or by two."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_localsgd.tasks.base import Batch, Task

if TYPE_CHECKING:
    from hpc_localsgd.types import Losses, Rows, Vector

_STREAM = 3  # the data of a run with the same seed are drawn from streams 1 and 2

# (x, g): moves the rows of x, in place; may use up g
Climb = Callable[["Rows", "Rows"], None]
# (x, workers, t): moves x, in place
Shift = Callable[["Rows", Sequence[int], int], None]


class Elsewhere(Task):
    """The wrapped task, except for `loss_and_grad`.

    Storage is never copied: x, gradients and buffers are the wrapped task's. Inside
    `loss_and_grad` its x is moved, and afterwards bitwise what it was.

    Which step it is, a task is told by `batch(workers, t)` alone. That call is passed through and
    remembered: `loss_and_grad` belongs to the batch that was drawn last.

    Attributes:
        task: The wrapped task, to take plain gradients with.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.matrices, self.shapes = task, task.matrices, task.shapes
        self._workers: Sequence[int] = ()
        self._t = 0

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped task."""
        if name == "task":  # an instance that is being copied has nothing yet
            raise AttributeError(name)
        return getattr(self.task, name)

    @abstractmethod
    def loss_and_grad(self, x: Rows, batch: Batch) -> tuple[Losses, Rows]:
        """Return each worker's loss [R], and its gradient [R, P] at the point the method names."""

    def batch(self, workers: Sequence[int], t: int) -> Batch:
        """Return the wrapped task's batches, and remember the step."""
        self._workers, self._t = workers, t
        return self.task.batch(workers, t)

    def undisturbed(self, worker: int, t: int) -> Batch:
        """Return `Task.undisturbed`; the record of which batch was drawn last stays."""
        return self.task.undisturbed(worker, t)

    def init(self, seed: int) -> Vector:
        """Return the initial parameters, see `Task.init`."""
        return self.task.init(seed)

    def loss(self, x: Vector, batch: Batch, buffers: Vector | None = None) -> torch.Tensor:
        """Return the plain loss, which curvature is measured on: see `Task.loss`."""
        return self.task.loss(x, batch, buffers)

    def outputs(
        self, x: Vector, inputs: torch.Tensor, buffers: Vector | None = None
    ) -> torch.Tensor:
        """Return the outputs, see `Task.outputs`."""
        return self.task.outputs(x, inputs, buffers)

    def criterion(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of outputs, see `Task.criterion`."""
        return self.task.criterion(outputs, targets)

    def evaluate(self, x: Vector, split: str, rows: range, buffers: Vector) -> torch.Tensor:
        """Evaluate a split, see `Task.evaluate`."""
        return self.task.evaluate(x, split, rows, buffers)

    def probabilities(
        self, x: Vector, split: str, rows: range, buffers: Vector
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict classes, see `Task.probabilities`."""
        return self.task.probabilities(x, split, rows, buffers)

    def statistics(self, x: Vector, batches: Sequence[Batch]) -> Vector:
        """Estimate the statistics, see `Task.statistics`."""
        return self.task.statistics(x, batches)

    def noisy_from(self, step: int) -> None:
        """Let label noise begin later, see `Task.noisy_from`."""
        self.task.noisy_from(step)

    def phase_begin(self, t: int) -> int:
        """Return where the phase of step t begins, see `Task.phase_begin`."""
        return self.task.phase_begin(t)

    def named_tensors(self, x: Vector, buffers: Vector) -> dict[str, torch.Tensor]:
        """Return a model by the names of its module, see `Task.named_tensors`."""
        return self.task.named_tensors(x, buffers)

    def vector_of(self, named: Mapping[str, torch.Tensor]) -> Vector:
        """Return the parameters of a model, see `Task.vector_of`."""
        return self.task.vector_of(named)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state, see `Task.state_dict`."""
        return self.task.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore the state, see `Task.load_state_dict`."""
        self.task.load_state_dict(state)

    @contextmanager
    def _restoring(self, x: Rows) -> Iterator[Rows]:
        """Lend the task's own storage, holding x, to be changed; restore x bitwise afterwards."""
        own = self.task.x
        if x.data_ptr() != own.data_ptr():
            own.copy_(x)
        kept = own.clone()  # adding eps and taking it off again would leave rounding errors
        try:
            yield own
        finally:
            own.copy_(kept)


class Ascent(Elsewhere):
    """Two passes: the first finds the direction of ascent, the second takes the gradient there.

    The loss is that at x, of the first pass. So are BatchNorm's running statistics: they are
    updated once, with what the plain gradient would have made of them, and those of the second
    pass are thrown away, as in the usual code of SAM. (Its integer counters advance twice; torch
    uses them with `momentum=None` only.) Dropout draws again in the second pass.
    """

    def __init__(self, task: Task, climb: Climb) -> None:
        super().__init__(task)
        self._climb = climb

    def loss_and_grad(self, x: Rows, batch: Batch) -> tuple[Losses, Rows]:
        """Return losses [R] at x and gradients [R, P] at the point above it, of the same batch."""
        with self._restoring(x) as point:
            loss, g = self.task.loss_and_grad(point, batch)
            statistics = self.task.buffers.clone()
            self._climb(point, g)
            _, g = self.task.loss_and_grad(point, batch)
            self.task.buffers.copy_(statistics)
        return loss, g


class Shifted(Elsewhere):
    """One pass, at a point that depends on the step but not on the batch.

    Loss and BatchNorm's statistics are those of the shifted point, the only one seen.
    """

    def __init__(self, task: Task, shift: Shift) -> None:
        super().__init__(task)
        self._shift = shift

    def loss_and_grad(self, x: Rows, batch: Batch) -> tuple[Losses, Rows]:
        """Return losses [R] and gradients [R, P] at the shifted points.

        Raises:
            RuntimeError: The batch drawn last was not one for each row of x.
        """
        if len(self._workers) != len(x):
            raise RuntimeError(
                f"the point of a step is a function of the step: draw the batch of these {len(x)} "
                f"workers with batch(workers, t) first (the last was of {len(self._workers)})"
            )
        with self._restoring(x) as point:
            self._shift(point, self._workers, self._t)
            return self.task.loss_and_grad(point, batch)


def normal(like: Vector, seed: int, worker: int, t: int) -> Vector:
    """Return normal numbers [P] on the device of `like`: a function of (seed, worker, t) only.

    They are drawn on the device, whose numbers are its own: a CPU and a GPU give different ones.
    """
    words = np.random.SeedSequence([_STREAM, seed, worker, t]).generate_state(1, np.uint64)
    generator = torch.Generator(like.device).manual_seed(int(words[0]))
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
