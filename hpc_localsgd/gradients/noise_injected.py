"""Noise-injected SGD: the gradient at a random point near x, each worker at its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_localsgd.gradients.base import GradientAt, check_not_negative
from hpc_localsgd.gradients.perturbed import Shifted, normal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class noise_injected(GradientAt):
    """SSGD*: noise of constant size that does not look at the landscape.

        g_k = grad L_k(x_k + eps_k)        eps_k ~ N(0, sigma^2 I), independent of each other

    Source: Zhang et al., arXiv:2112.01433: with `--algorithm allreduce` it is the control against
    which decentralised SGD, whose noise follows the landscape, is compared.
    Here differs: the paper's sigma is not known to us; the default is small beside usual weights.
    Costs: nothing but the draw. The loss reported is that at x_k + eps_k.
    Sends: nothing.
    Equals: plain when sigma = 0; average_direction of the same sigma when K = 1.

    Attributes:
        sigma: Standard deviation of every coordinate.
    """

    sigma: float = 0.01

    def __post_init__(self) -> None:
        check_not_negative("noise_injected", sigma=self.sigma)

    def wrap(self, task: Task, world: World, seed: int) -> Task:
        """Return the task with a gradient at x_k + eps_k, drawn from (seed, worker, t)."""
        del world

        def shift(x: Rows, workers: Sequence[int], t: int) -> None:
            for row, worker in zip(x, workers, strict=True):
                row.add_(normal(row, seed, worker, t), alpha=self.sigma)

        return Shifted(task, shift) if self.sigma else task
