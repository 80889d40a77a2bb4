"""Adaptive SAM: the ball is stretched along large weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hpc_localsgd.gradients.base import GradientAt, check_not_negative
from hpc_localsgd.gradients.perturbed import Ascent
from hpc_localsgd.gradients.sam import NO_GRADIENT

if TYPE_CHECKING:
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class asam(GradientAt):
    """ASAM of every worker by itself: sharpness that rescaling the weights does not change.

        g_k = grad L_k(x_k + eps_k)        eps_k = rho T^2 grad L_k(x_k) / ||T grad L_k(x_k)||
        T = |x_k| + eta for weights, 1 for all other parameters

    Source: Kwon et al., ASAM, arXiv:2102.11600, and its released code.
    Here differs: weights are the parameters that take weight decay (matrices and filters). The
        released code takes every parameter with "weight" in its name, those of norms included.
    Costs: two passes a step. The loss reported is that at x_k.
    Sends: nothing.
    Equals: plain when rho = 0; sam when no parameter takes weight decay.

    Attributes:
        rho: Length of T^-1 eps.
        eta: Keeps weights near zero movable.
    """

    rho: float = 0.5
    eta: float = 0.01

    def __post_init__(self) -> None:
        check_not_negative("asam", rho=self.rho, eta=self.eta)

    def wrap(self, task: Task, world: World, seed: int) -> Task:
        """Return the task with ASAM's gradient; draws nothing."""
        del world, seed
        return Ascent(task, lambda x, g: self._climb(x, g, task.decayed)) if self.rho else task

    def _climb(self, x: Rows, g: Rows, decayed: int) -> None:
        weights = g[:, :decayed]
        T = x[:, :decayed].abs().add_(self.eta)
        weights.mul_(T)
        norms = torch.linalg.vector_norm(g, dim=1, keepdim=True)  # of T g
        weights.mul_(T)
        x.add_(g.mul_(self.rho / norms.clamp_min(NO_GRADIENT)))
