"""A quadratic with a known Hessian, noise of a known size, and minima that differ if asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.formula import Formula


@dataclass(frozen=True)
class quadratic(TaskSpec):
    """Losses scale_k/2 sum_j h_j (x_j - c_k)^2 of workers k; samples add noise N(0, noise^2).

    The Hessian of worker k is scale_k diag(h), and the mean model descends to
    sum_k scale_k c_k / sum_k scale_k. With s^2 = noise^2 / batch and rho = 1 - lr h_j, the mean of
    the workers has the variance lr^2 s^2 / K (1 - rho^2t) / (1 - rho^2) after t steps of SGD, for
    every H; j steps after an exchange the spread is (1 - 1/K) lr^2 s^2 (1 - rho^2j) / (1 - rho^2)
    in each coordinate.

    Attributes:
        h: Eigenvalues of the Hessian, one a coordinate; repeated up to `dim`.
        dim: P.
        noise: Standard deviation of one sample's gradient, in every coordinate.
        minima: c_k, worker k's minimum in every coordinate; repeated for further workers.
        scales: How much more curved worker k's loss is; repeated for further workers.
        spread_out: Standard deviation of the starting point in every coordinate.
        at: Its mean.
        samples: Samples in an epoch.
    """

    h: Sequence[float] = (1.0, 0.3, 0.1)
    dim: int = 12
    noise: float = 0.1
    minima: Sequence[float] = (0.0,)
    scales: Sequence[float] = (1.0,)
    spread_out: float = 1.0
    at: float = 0.0
    samples: int = 1024

    def __post_init__(self) -> None:
        if not (len(self.h) and len(self.minima) and len(self.scales)):
            raise ConfigurationError("quadratic: h, minima and scales need at least one number")
        if self.dim < 1 or self.noise < 0 or self.samples < 1:
            raise ConfigurationError(f"{self}: dim and samples are positive, noise not negative")

    def undisturbed(self) -> quadratic:
        """Return the quadratic without noise.

        Raises:
            ConfigurationError: Workers have different losses.
        """
        if len({*self.minima}) > 1 or len({*self.scales}) > 1:
            raise ConfigurationError(
                f"the workers of quadratic(minima={tuple(self.minima)}, scales="
                f"{tuple(self.scales)}) minimise different losses, and curvature is measured "
                "for one: its Hessian is mean(scales) diag(h)"
            )
        return replace(self, noise=0.0)

    @property
    def fresh(self) -> bool:
        """Whether samples differ every time, see `TaskSpec.fresh`."""
        return True

    def build(self, context: TaskContext) -> Quadratic:
        """Return the quadratics of this process's workers."""
        return Quadratic(self, context)


class Quadratic(Formula):
    """The quadratics of R workers."""

    def __init__(self, spec: quadratic, context: TaskContext) -> None:
        """Spread the numbers of the spec over coordinates and workers."""
        super().__init__(spec.dim, spec.samples, context)
        self.spec = spec
        self.h = self._repeated(spec.h, spec.dim)
        self.minima = self._repeated(spec.minima, context.workers)
        self.scales = self._repeated(spec.scales, context.workers)

    def _repeated(self, values: Sequence[float], n: int) -> torch.Tensor:
        return torch.as_tensor(np.resize(np.asarray(values, dtype=np.float64), n)).to(self.x)

    def draw(self, stream: np.random.Generator, batch: int) -> np.ndarray:
        """Return gradient noise [B, P]."""
        return self.spec.noise * stream.standard_normal((batch, self.spec.dim))

    def losses(self, x: torch.Tensor, numbers: torch.Tensor, workers: torch.Tensor) -> torch.Tensor:
        """Return scale_k/2 sum_j h_j (x_j - c_k)^2 + noise . x, the mean over a batch."""
        away = x[..., None, :] - self.minima[workers][..., None]
        curved = 0.5 * self.scales[workers] * (self.h * away.square()).sum(-1)
        return (curved + (numbers * x[..., None, :]).sum(-1)).mean(-1)

    def risk(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean over the workers, without the noise."""
        away = x - self.minima[:, None]
        return 0.5 * (self.scales * (self.h * away.square()).sum(-1)).mean()

    def start(self, stream: np.random.Generator) -> np.ndarray:
        """Draw N(at, spread_out^2) in every coordinate."""
        return self.spec.at + self.spec.spread_out * stream.standard_normal(self.spec.dim)
