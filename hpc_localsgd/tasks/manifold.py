"""A valley whose floor is a manifold of minimisers, and fresh label noise: where H shows.

    L(x, y) = (1 + x^2) y^2 / 2        minimisers y = 0, of curvature 1 + x^2 across the valley

It is the regression of f(x, y) = sqrt(1 + x^2) y on the label 0. A sample's label is +-noise, drawn
at every use, so that on the floor the gradient's covariance is noise^2 times the Hessian, as for
any model with label noise. The noise drives x towards 0, the flattest minimiser: SGD as
x e^(-t noise^2 / (2B)) in the slow time t = lr^2 steps with B samples in all, Local SGD with long
rounds K times as fast (Gu et al., ICLR 2023; `hpc_localsgd.analysis.slow_sde` has the theory).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.formula import Formula


@dataclass(frozen=True)
class manifold(TaskSpec):
    """The valley L = (1 + x^2) y^2 / 2 with label noise, in `pairs` independent copies.

    The vector is (x_1 .. x_n, y_1 .. y_n), and the loss the sum over the pairs: copies in one run
    are repetitions of an experiment. `hessian`, `third`, `covariance` and `project` are what
    `hpc_localsgd.analysis.slow_sde.Manifold` asks for:

        Manifold(spec.hessian, spec.third, spec.covariance, spec.project)

    Attributes:
        pairs: n; P is 2 n.
        noise: Size of the labels.
        tangent: Standard deviation of further noise in the gradient of x, along the valley: pure
            diffusion, whose variance lr^2 tangent^2 steps / B does not depend on H.
        x: Where every pair begins along the valley.
        y: Standard deviation of where the pairs begin across it.
        samples: Samples in an epoch.
    """

    pairs: int = 8
    noise: float = 1.0
    tangent: float = 0.0
    x: float = 1.5
    y: float = 1.0
    samples: int = 1024

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.samples < 1 or min(self.noise, self.tangent) < 0:
            raise ConfigurationError(
                f"{self}: pairs and samples are positive, noise and tangent not negative"
            )

    def undisturbed(self) -> manifold:
        """Return the valley without label noise, and without noise along it."""
        return replace(self, noise=0.0, tangent=0.0)

    @property
    def fresh(self) -> bool:
        """Whether samples differ every time, see `TaskSpec.fresh`."""
        return True

    def build(self, context: TaskContext) -> Valley:
        """Return the valleys of this process's workers."""
        return Valley(self, context)

    def hessian(self, zeta: np.ndarray) -> np.ndarray:
        """Return the Hessian of L at a point of the floor, [P, P]: diag(0, 1 + x^2)."""
        x = zeta[: self.pairs]
        return np.diag(np.concatenate([np.zeros_like(x), 1 + x**2]))

    def third(self, zeta: np.ndarray, M: np.ndarray) -> np.ndarray:
        """Return grad^3 L[M] at a point of the floor, [P]: (2 x M_yy, 4 x M_xy) in every pair."""
        n, x = self.pairs, zeta[: self.pairs]
        across, mixed = np.diagonal(M)[n:], np.diagonal(M[:n, n:])
        return np.concatenate([2 * x * across, 4 * x * mixed])

    def covariance(self, zeta: np.ndarray) -> np.ndarray:
        """Return the covariance of one sample's gradient at a point of the floor, [P, P]."""
        x = zeta[: self.pairs]
        along = np.full_like(x, self.tangent**2)
        return np.diag(np.concatenate([along, self.noise**2 * (1 + x**2)]))

    def project(self, point: np.ndarray) -> np.ndarray:
        """Return the end of the gradient flow from a point [P], [P].

        The flow keeps x^2 e^(x^2 - y^2), so its end has X^2 = W(x^2 e^(x^2 - y^2)), with Lambert's
        W.
        """
        from scipy.special import lambertw  # a fifth of a second that no other task has to wait

        x, y = point[: self.pairs], point[self.pairs :]
        end = np.sqrt(lambertw(x**2 * np.exp(x**2 - y**2)).real)
        return np.concatenate([np.sign(x) * end, np.zeros_like(y)])


class Valley(Formula):
    """The valleys of R workers."""

    def __init__(self, spec: manifold, context: TaskContext) -> None:
        """Set P = 2 pairs."""
        super().__init__(2 * spec.pairs, spec.samples, context)
        self.spec = spec

    def draw(self, stream: np.random.Generator, batch: int) -> np.ndarray:
        """Return labels and noise along the valley, [B, 2, n]."""
        shape = (batch, self.spec.pairs)
        labels = self.spec.noise * stream.choice([-1.0, 1.0], size=shape)
        along = self.spec.tangent * stream.standard_normal(shape)
        return np.stack([labels, along], axis=1)

    def losses(self, x: torch.Tensor, numbers: torch.Tensor, workers: torch.Tensor) -> torch.Tensor:
        """Return the mean of squared error / 2 of sqrt(1 + x^2) y, plus tangent noise . x."""
        del workers
        along, across = x[..., None, :].chunk(2, -1)
        labels, push = numbers.unbind(-2)
        error = (1 + along.square()).sqrt() * across - labels
        return (0.5 * error.square() + push * along).sum(-1).mean(-1)

    def risk(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum over pairs of (1 + x^2) y^2 / 2, without the noise."""
        along, across = x.chunk(2)
        return 0.5 * ((1 + along.square()) * across.square()).sum()

    def start(self, stream: np.random.Generator) -> np.ndarray:
        """Return the start: x along the valley, N(0, y^2) across it."""
        n = self.spec.pairs
        return np.concatenate([np.full(n, self.spec.x), self.spec.y * stream.standard_normal(n)])
