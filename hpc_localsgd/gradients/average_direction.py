"""Average-direction SAM: the gradient of the loss smoothed by a Gaussian, one draw a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from hpc_localsgd.gradients.base import GradientAt, check_not_negative
from hpc_localsgd.gradients.perturbed import Shifted, normal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import ModelSize, Rows
    from hpc_localsgd.worlds.base import World

_STREAM = 4  # apart from those of the data and of `normal`


@dataclass(frozen=True)
class average_direction(GradientAt):
    """The expected gradient around x, where SAM takes the worst: estimated by one draw a step.

        g_k = grad L_k(x_k + eps)
        eps ~ N(0, sigma^2 I)                                    for a given sigma
        eps = K^-1/2 sum_k z_k (x_k - mean), z_k ~ N(0, 1)       for sigma = "measured"

    In expectation this is grad L(x) + grad^3 L[cov eps] / 2, exactly if L is cubic. The covariance
    of the measured eps is Xi = mean_k (x_k - mean)(x_k - mean)^T, the spread of the workers as it
    is now: 0, up to rounding, after an exchange that made them equal.
    Source: Zhu et al., arXiv:2306.02913, where it is shown that the mean of decentralised SGD
    descends along this gradient, with Xi, anyway. Workers that differ already feel Xi once.
    Here differs: all workers of a step share one eps. For the measured one a draw of its own for
        every worker would need all deviations everywhere, K P numbers; the shared one is a single
        mean, because all know all z: eps = K^1/2 mean_k (z_k - mean z) x_k. For a given sigma,
        draws of the workers' own are `noise_injected`. No default of sigma is published.
    Costs: nothing but the draw. The loss reported is that at x_k + eps.
    Sends: nothing for a given sigma; P numbers per worker and *step* for the measured one, which
        undoes the saving of local steps: it is for studying them. It is a collective: all ranks
        take their gradients together.
    Equals: plain when sigma = 0; noise_injected of the same sigma when K = 1.

    Attributes:
        sigma: Standard deviation of every coordinate, or "measured".
    """

    sigma: float | Literal["measured"] = 0.01

    def __post_init__(self) -> None:
        if self.sigma != "measured":
            check_not_negative("average_direction", sigma=self.sigma)

    def wrap(self, task: Task, world: World, seed: int) -> Task:
        """Return the task with a gradient at x_k + eps, drawn from (seed, t)."""
        sigma = self.sigma
        if sigma == 0:
            return task

        def given(x: Rows, workers: Sequence[int], t: int) -> None:
            del workers
            x.add_(normal(x[0], seed, 0, t), alpha=float(sigma))

        def measured(x: Rows, workers: Sequence[int], t: int) -> None:
            z = coefficients(world.K, seed, t)[list(workers)]
            weights = torch.from_numpy(z).to(x, non_blocking=True)
            x.add_(world.mean(weights[:, None] * x), alpha=world.K**0.5)

        return Shifted(task, measured if sigma == "measured" else given)

    def payload(self, model: ModelSize, K: int) -> int:
        """Return the bytes of one copy of the parameters a step, for the measured covariance."""
        return model.nbytes if self.sigma == "measured" and K > 1 else 0


def coefficients(K: int, seed: int, t: int) -> np.ndarray:
    """Return z_k - mean z of all K workers, float64 [K]: a function of (seed, t) only."""
    z = np.random.default_rng([_STREAM, seed, t]).standard_normal(K)
    return z - z.mean()
