"""Sharpness in directions: how much higher the loss is a little way off.

    average direction   E L(x + e) - L(x),  e ~ N(0, sigma^2 I) or N(0, Xi)   ~ 1/2 tr(H Xi)
    worst direction     max_{||e|| <= rho} L(x + e) - L(x)

Xi = 1/K sum_k (w_k - w)(w_k - w)^T is the measured spread of the workers. Decentralised and local
SGD descend the average-direction form of it (Zhu et al., arXiv:2306.02913); SAM descends the worst
(Foret et al., arXiv:2010.01412).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.curvature.probes import Estimate, gaussian

if TYPE_CHECKING:
    from hpc_localsgd.curvature.probes import Gradient, Losses, Product
    from hpc_localsgd.types import Rows, Vector


def smoothed(
    losses: Losses, x: Vector, sigma: float, *, probes: int = 20, seed: int = 0
) -> Estimate:
    """Estimate E L(x + sigma z) - L(x) for standard normal z, about sigma^2 / 2 tr H.

    Drawn in opposite pairs, so that odd orders cancel exactly.

    Args:
        losses: Loss at points [m, P].
        x: [P].
        sigma: Standard deviation in every coordinate.
        probes: Pairs.
        seed: Of the directions.
    """
    centre = float(losses(x[None])[0])
    samples = []
    for i in range(probes):
        step = sigma * gaussian(i, 1, x, seed)
        samples.append(float(losses(torch.cat([x + step, x - step])).mean()) - centre)
    return Estimate.of(samples)


def smoothed_by_workers(
    losses: Losses, x: Vector, apart: Rows, *, probes: int = 20, seed: int = 0
) -> Estimate:
    """Estimate E L(x + e) - L(x) for e ~ N(0, Xi), Gaussian with the workers' covariance.

    Args:
        losses: Loss at points [m, P].
        x: [P], the mean model.
        apart: [K, P], from `deviations`.
        probes: Opposite pairs.
        seed: Of the directions.
    """
    centre = float(losses(x[None])[0])
    samples = []
    for i in range(probes):
        z = gaussian(i, 1, apart[:, 0], seed) / np.sqrt(len(apart))  # [1, K]
        step = z @ apart
        samples.append(float(losses(torch.cat([x + step, x - step])).mean()) - centre)
    return Estimate.of(samples)


def deviations(workers: Rows) -> Rows:
    """Return the deviations that Xi is made of: w_k - mean, [K, P]."""
    return workers - workers.mean(0, keepdim=True)


def half_trace(product: Product, apart: Rows, *, vectors: int = 10) -> float:
    """Return 1/2 tr(H Xi) = 1/(2K) sum_k d_k^T H d_k, exactly, by K products.

    On a quadratic loss it equals (1/K) sum_k L(w_k) - L(w).

    Args:
        product: Multiplies rows [m, P] with the Hessian at the mean model.
        apart: [K, P], from `deviations`.
        vectors: Rows in a pass.
    """
    return float(along(product, apart, vectors=vectors).sum() / (2 * len(apart)))


def along(product: Product, apart: Rows, *, vectors: int = 10) -> np.ndarray:
    """Return d_k^T H d_k for each row d_k: float64 [K].

    Args:
        product: Multiplies rows [m, P] with the Hessian.
        apart: [K, P].
        vectors: Rows in a pass.
    """
    found = [(d * product(d)).double().sum(1) for d in apart.split(vectors)]
    return torch.cat(found).cpu().numpy()


def worst_direction(
    losses: Losses, gradient: Gradient, x: Vector, rho: float, *, steps: int = 1
) -> float:
    """Return L(x + e) - L(x) for e = rho g / ||g||, the steepest ascent within a ball.

    With one step this is SAM's own first-order answer. Further steps set e = rho g(x + e) /
    ||g(x + e)||, a fixed-point ascent on the sphere, and the largest value counts; it is a lower
    bound of the maximum.

    Args:
        losses: Loss at points [m, P].
        gradient: Gradient at a point.
        x: [P].
        rho: Radius of the ball.
        steps: Gradients taken.
    """
    centre = float(losses(x[None])[0])
    found, point = 0.0, x
    for i in range(steps):
        g = gradient(point)
        size = float(g.norm())
        if size == 0:
            break
        point = x + rho / size * g
        rise = float(losses(point[None])[0]) - centre
        found = rise if i == 0 else max(found, rise)
    return found
