"""Following the Slow SDE along the manifold, and the projection onto it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpc_localsgd.analysis.slow_sde.equation import Manifold, diffusion, drift
from hpc_localsgd.analysis.slow_sde.regime import Regime


@dataclass(frozen=True)
class Path:
    """A path of the Slow SDE.

    Attributes:
        step: [n + 1], optimiser steps, t / eta^2.
        zeta: [n + 1, d], points of the manifold.
    """

    step: np.ndarray
    zeta: np.ndarray


def euler_maruyama(
    manifold: Manifold,
    start: np.ndarray,
    regime: Regime,
    steps: float,
    n: int = 200,
    seed: int | None = 0,
) -> Path:
    """Integrate the Slow SDE from a point of the manifold: zeta <- Phi(zeta + b dt + A dW).

    Going through Phi does three things at once: it takes the tangent part of the step, adds the
    Ito correction 1/2 d^2 Phi[A A^T] dt, and keeps the path on the manifold to all orders.

    Args:
        manifold: The minimisers.
        start: [d]; it is projected first.
        regime: K, B, eta and H of the run.
        steps: Length of the path in optimiser steps; t = eta^2 x steps.
        n: Steps of the integrator.
        seed: Of the noise; None leaves it out, for noise without a tangent part (label noise).

    Returns:
        The path; the first of its points is the projected start.
    """
    stream = None if seed is None else np.random.default_rng(seed)
    dt = regime.lr**2 * steps / n
    zeta = manifold.project(np.asarray(start, dtype=np.float64))
    path = [zeta]
    for _ in range(n):
        move = drift(manifold, zeta, regime) * dt
        if stream is not None:
            A = diffusion(manifold, zeta, regime)
            move = move + A @ stream.standard_normal(len(zeta)) * np.sqrt(dt)
        zeta = manifold.project(zeta + move)
        path.append(zeta)
    return Path(np.linspace(0, steps, n + 1), np.array(path))


def flow_to_minimum(
    gradient: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    *,
    step: float,
    tolerance: float = 1e-10,
    most: int = 100_000,
) -> np.ndarray:
    """Return Phi(x): follow the gradient flow dx/dt = -grad L with Runge-Kutta steps of order 4.

    Gradient descent would end elsewhere on the manifold than the flow, by O(step); this one by
    O(step^4).

    Args:
        gradient: grad L, [d] -> [d].
        x: [d].
        step: Length of a step in the time of the flow, below about 2.7 / lambda_max.
        tolerance: The flow has ended when the gradient is shorter than this.
        most: Steps after which it is given up.

    Returns:
        [d].

    Raises:
        ValueError: It has not ended after `most` steps, or has left for infinity.
    """
    for _ in range(most):
        first = -gradient(x)
        if not np.isfinite(first).all():
            raise ValueError(f"the gradient flow diverges: step {step:g} is too long")
        if np.linalg.norm(first) < tolerance:
            return x
        second = -gradient(x + step / 2 * first)
        third = -gradient(x + step / 2 * second)
        fourth = -gradient(x + step * third)
        x = x + step / 6 * (first + 2 * second + 2 * third + fourth)
    raise ValueError(
        f"the gradient flow has not ended after {most} steps of {step:g}; its gradient is still "
        f"{np.linalg.norm(gradient(x)):.3g} long: take longer steps, or more of them"
    )
