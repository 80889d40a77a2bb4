"""A model and its data: the small ones of `verify`, or the user's."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.classification import Classification

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

SEED = 7


@dataclass(frozen=True)
class Problem:
    """A model and data to train on for a few steps.

    Attributes:
        module: Copied for every worker.
        inputs: Samples [N, ...].
        labels: Their classes [N].
        batch: Samples per worker and step.
        dtype: Of the parameters.
        lr: Learning rate.
        vmapped: See `Replicas`; None is the task's own choice.
    """

    module: nn.Module
    inputs: np.ndarray
    labels: np.ndarray
    batch: int
    dtype: torch.dtype = torch.float64
    lr: float = 0.05
    vmapped: bool | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters in the flat vector."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    def task(self, world: World, vmapped: bool | None = None) -> Classification:
        """Return the task of this rank's workers, all with the parameters of the module."""
        context = TaskContext(
            world.K, world.local_workers, self.batch, SEED, device=world.device, dtype=self.dtype
        )
        splits = {"train": (self.inputs, self.labels)}
        chosen = self.vmapped if vmapped is None else vmapped
        task = Classification(lambda: copy.deepcopy(self.module), splits, context, chosen)
        task.x[:] = task.init(SEED)
        return task


def small() -> Problem:
    """Return a problem of 173 parameters, a prime, so that no share is even, and 203 samples."""
    stream = np.random.default_rng(SEED)
    labels = stream.integers(4, size=203)
    inputs = stream.standard_normal((203, 8)) + 2 * np.eye(4, 8)[labels]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        module = nn.Sequential(nn.Linear(8, 13), nn.Tanh(), nn.Linear(13, 4))
    return Problem(module, inputs, labels, batch=6)
