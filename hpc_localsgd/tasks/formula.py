"""Tasks that are a formula: no data, but noise drawn for (seed, worker, step), and exact answers.

Results of experiments on them can be compared with closed forms to all digits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import Batch, Task, TaskContext
from hpc_localsgd.tasks.execution import Execution

if TYPE_CHECKING:
    from hpc_localsgd.types import Losses, Rows, Vector


class Formula(Task):
    """R workers that minimise a formula of their parameters and of random numbers.

    A batch is (numbers [R, B, ...], workers [R, B]): every sample is fresh noise, never seen
    again, whatever `sampling` says. Of the data only its size is left, which makes an epoch.
    """

    def __init__(self, P: int, samples: int, context: TaskContext) -> None:
        """Allocate the flat storage [R, P].

        Args:
            P: Parameters.
            samples: Samples in an epoch, and in each split.
            context: Workers, batch, seed, device and dtype of the run.

        Raises:
            ConfigurationError: An execution that is for networks.
        """
        if replace(context.execution, replicas="auto") != Execution():
            raise ConfigurationError(
                "--precision, --accumulate, --channels-last and --compile are for networks, and "
                "this task is a formula: leave them out"
            )
        self._context = context
        R = len(context.local_workers)
        self.dim, self.sizes, self.decayed = P, (P,), 0
        self.x = torch.zeros(R, P, device=context.device, dtype=context.dtype)
        self.buffers = self.x.new_empty(R, 0)
        self._g = torch.zeros_like(self.x)
        self.partition = context.partition(samples)
        self.splits = {"train": samples, "test": samples}

    @abstractmethod
    def draw(self, stream: np.random.Generator, batch: int) -> np.ndarray:
        """Return the random numbers [B, ...] of one batch."""

    @abstractmethod
    def losses(self, x: torch.Tensor, numbers: torch.Tensor, workers: torch.Tensor) -> torch.Tensor:
        """Return mean losses [...] at x [..., P] over numbers [..., B, ...] and workers [..., B].

        Differentiable in x, twice.
        """

    @abstractmethod
    def risk(self, x: Vector) -> torch.Tensor:
        """Return the loss [] that is minimised: the mean over the noise and over all K workers."""

    @abstractmethod
    def start(self, stream: np.random.Generator) -> np.ndarray:
        """Return where all workers begin, [P]."""

    def init(self, seed: int) -> Vector:
        """Return where all workers begin, [P]."""
        return torch.as_tensor(self.start(np.random.default_rng(seed))).to(self.x)

    def batch(self, workers: Sequence[int], t: int) -> Batch:
        """Return numbers [R, B, ...], and their workers [R, B]."""
        B, seed = self._context.batch, self._context.seed
        drawn = np.stack([self.draw(np.random.default_rng([seed, k, t]), B) for k in workers])
        numbers = torch.from_numpy(drawn).to(self.x)
        of = torch.tensor(list(workers), device=self.x.device)
        return numbers, of[:, None].expand(-1, B)

    def undisturbed(self, worker: int, t: int) -> Batch:
        """Return a worker's batch without its noise, whose mean is 0: the loss is exact."""
        numbers, workers = self.batch([worker], t)
        return torch.zeros_like(numbers[0]), workers[0]

    def loss_and_grad(self, x: Rows, batch: Batch) -> tuple[Losses, Rows]:
        """Return losses [R] and gradients [R, P]."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            losses = self.losses(leaf, *batch)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), self._g.copy_(gradient)

    def loss(self, x: Vector, batch: Batch, buffers: Vector | None = None) -> torch.Tensor:
        """Return the mean loss [] over a batch, differentiable in x."""
        del buffers
        return self.losses(x, *batch)

    @torch.no_grad()
    def evaluate(self, x: Vector, split: str, rows: range, buffers: Vector) -> torch.Tensor:
        """Return the exact risk for each of the rows, and NaN for right answers."""
        del split, buffers
        risk = float(self.risk(x)) * len(rows)
        return torch.tensor([risk, float("nan"), len(rows)], dtype=torch.float64, device=x.device)

    def statistics(self, x: Vector, batches: Sequence[Batch]) -> Vector:
        """Return no buffers: [0]."""
        del x, batches
        return self.buffers[0]
