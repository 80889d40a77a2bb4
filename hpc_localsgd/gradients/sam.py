"""Sharpness-aware minimisation: the gradient at the worst point of a small ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hpc_localsgd.gradients.base import GradientAt, check_not_negative
from hpc_localsgd.gradients.perturbed import Ascent

if TYPE_CHECKING:
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.base import World

NO_GRADIENT = 1e-12  # a gradient shorter than this has no direction to go up in


@dataclass(frozen=True)
class sam(GradientAt):
    """SAM of every worker by itself (m-sharpness: m is the batch of a worker).

        g_k = grad L_k(x_k + eps_k)        eps_k = rho grad L_k(x_k) / ||grad L_k(x_k)||

    Source: Foret et al., Sharpness-Aware Minimization, arXiv:2010.01412, equations 2 and 3.
    The norm is over the whole vector, weight decay is left out of it, and no worker asks another:
    also in rounds of length 1 it is the gradients at x_k + eps_k that are averaged.
    Costs: two passes a step. The loss reported is that at x_k.
    Sends: nothing.
    Equals: plain when rho = 0.

    Attributes:
        rho: Length of eps.
    """

    rho: float = 0.05

    def __post_init__(self) -> None:
        check_not_negative("sam", rho=self.rho)

    def wrap(self, task: Task, world: World, seed: int) -> Task:
        """Return the task with SAM's gradient; draws nothing."""
        del world, seed
        return Ascent(task, self._climb) if self.rho else task

    def _climb(self, x: Rows, g: Rows) -> None:
        norms = torch.linalg.vector_norm(g, dim=1, keepdim=True)
        x.add_(g.mul_(self.rho / norms.clamp_min(NO_GRADIENT)))
