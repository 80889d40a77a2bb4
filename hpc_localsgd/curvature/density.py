"""The density of the Hessian's eigenvalues, by stochastic Lanczos quadrature.

m steps of Lanczos from a random vector give a quadrature rule, nodes theta_k with weights
tau_k = (first component of the k-th eigenvector of T)^2, whose moments agree with
z^T H^n z / z^T z up to n = 2m - 1. Averaged over vectors that is the density of eigenvalues.
Source: Golub & Welsch, 1969; Lin, Saad & Yang, SIAM Review 58, 2016; for neural networks Ghorbani,
Krishnan & Xiao, ICML 2019.

curvlinops has a Lanczos for one vector at a time and without orthogonalisation; here all vectors
go through the network together, and 20 lines keep the basis orthogonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.curvature.probes import Estimate, rademacher

if TYPE_CHECKING:
    from hpc_localsgd.curvature.probes import Product
    from hpc_localsgd.types import Rows, Vector


@dataclass(frozen=True)
class Density:
    """Eigenvalues with their shares, one quadrature rule a probe.

    Attributes:
        nodes: [n, m], float64.
        weights: [n, m]; each row sums to 1.
    """

    nodes: np.ndarray
    weights: np.ndarray

    def moment(self, power: int) -> Estimate:
        """Return the mean of lambda^power over the P eigenvalues: tr H^power / P."""
        return Estimate.of((self.weights * self.nodes**power).sum(1))

    def on(self, grid: np.ndarray, width: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the density on a grid, each node widened to a Gaussian.

        Args:
            grid: [g], eigenvalues.
            width: Standard deviation of the Gaussians; 1 % of the range by default.

        Returns:
            The density [g] and its standard error over the probes [g]. Its integral is 1.
        """
        width = width or max(0.01 * float(np.ptp(self.nodes)), 1e-12)
        away = (grid[None, None, :] - self.nodes[:, :, None]) / width
        bumps = np.exp(-0.5 * away**2) / (np.sqrt(2 * np.pi) * width)
        each = (self.weights[:, :, None] * bumps).sum(1)
        error = each.std(0, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else each[0] * np.nan
        return each.mean(0), error


def spectral_density(
    product: Product,
    like: Vector,
    *,
    steps: int = 30,
    probes: int = 10,
    vectors: int = 10,
    seed: int = 0,
) -> Density:
    """Return quadrature rules of the spectrum.

    Keeps `steps` x `vectors` x P numbers for the orthogonalisation.

    Args:
        product: Multiplies rows [m, P] with the symmetric matrix.
        like: [P]; gives length, dtype and device.
        steps: m, of Lanczos; at most P.
        probes: Random vectors, n.
        vectors: How many of them in a pass.
        seed: Of the vectors.
    """
    steps = min(steps, len(like))
    rules = []
    for first in range(0, probes, vectors):
        start = rademacher(first, min(vectors, probes - first), like, seed)
        rules += [quadrature(a, b) for a, b in zip(*lanczos(product, start, steps), strict=True)]
    nodes, weights = (np.stack(parts) for parts in zip(*rules, strict=True))
    return Density(nodes, weights)


def lanczos(product: Product, start: Rows, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the tridiagonal matrices of several vectors at once, with full orthogonalisation.

    Args:
        product: Multiplies rows [m, P] with the symmetric matrix.
        start: [m, P].
        steps: At most P.

    Returns:
        Diagonals [m, steps] and what lies beside them [m, steps - 1], float64. Where a vector's
        Krylov space ends early, zeros follow: the rule then has weight 0 there.
    """
    q = start / start.norm(dim=1, keepdim=True)
    basis = start.new_zeros(len(start), steps, start.shape[1])
    diagonal: list[torch.Tensor] = []
    beside: list[torch.Tensor] = []
    eps = torch.finfo(start.dtype).eps
    for j in range(steps):
        basis[:, j] = q
        r = product(q)
        alpha = (q * r).sum(1)
        Q = basis[:, : j + 1]
        for _twice in range(2):  # once is not enough in floating point (Kahan, Parlett)
            r = r - torch.einsum("mj,mjp->mp", torch.einsum("mjp,mp->mj", Q, r), Q)
        beta = r.norm(dim=1)
        size = alpha.abs() + (beside[-1] if beside else 0.0)
        ended = beta <= 100 * eps * size
        beta = torch.where(ended, 0.0, beta)
        q = torch.where(ended[:, None], 0.0, r / torch.where(ended, 1.0, beta)[:, None])
        diagonal.append(alpha)
        beside.append(beta)
    stacked = (torch.stack(rows, dim=1).double().cpu().numpy() for rows in (diagonal, beside))
    a, b = stacked
    return a, b[:, :-1]


def quadrature(diagonal: np.ndarray, beside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes [m] and weights [m] of a tridiagonal matrix (Golub & Welsch)."""
    T = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    nodes, vectors = np.linalg.eigh(T)
    return nodes, vectors[0] ** 2
