"""Fresh label noise, where the Slow SDE is an ODE with a closed form.

There the covariance of the gradient is Sigma = c Hessian on the manifold, so nothing of it is
tangent, and the path descends a regulariser along the manifold:

    d zeta / dt = -c/(4B) grad_Gamma [ tr H + (K - 1) tr F(2 eta h H) / (2 eta h) ]

with h local steps and the Hessian H. Without local steps it is tr H; for endless rounds K tr H.
Source: Gu et al., arXiv:2303.01215, the section on label noise regularisation; F is the integral
of psi.
"""

from __future__ import annotations

import numpy as np

from hpc_localsgd.analysis.slow_sde.equation import Manifold
from hpc_localsgd.analysis.slow_sde.lyapunov import FLAT, spectrum, tangent_projector
from hpc_localsgd.analysis.slow_sde.psi import F
from hpc_localsgd.analysis.slow_sde.regime import Regime


def regulariser(eigenvalues: np.ndarray, regime: Regime) -> np.ndarray:
    """Return what label noise minimises: tr H + (K - 1) tr F(2 eta h H) / (2 eta h).

    Args:
        eigenvalues: [..., d], those of the Hessian on the manifold.
        regime: K, eta and the local steps h. Its `finite` is ignored: this is the limit form.

    Returns:
        [...].
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    largest = np.abs(values).max(-1, keepdims=True, initial=0.0)
    values = np.where(np.abs(values) <= FLAT * largest, 0.0, values)  # rounding, of either sign
    trace = values.sum(-1)
    if np.isinf(regime.H):
        return regime.K * trace
    scale = 2 * regime.lr * regime.H
    return trace + (regime.K - 1) * F(scale * values).sum(-1) / scale


def label_noise_drift(
    manifold: Manifold, zeta: np.ndarray, regime: Regime, strength: float = 1.0
) -> np.ndarray:
    """Return -c/(4B) times the gradient of `regulariser` along the manifold, for Sigma = c Hessian.

    The gradient of tr f(H) is grad^3 L[f'(H)], and f' = 1 + (K - 1) psi(2 eta h lambda): no
    Lyapunov equation is solved. `drift` gives the same for a manifold with this noise.

    Args:
        manifold: The minimisers; its `noise` is not used.
        zeta: [d], a point of it.
        regime: K, B, eta and the local steps.
        strength: c.

    Returns:
        [d], tangent, per unit of t = eta^2 x steps.
    """
    hessian = manifold.hessian(zeta)
    values, vectors = spectrum(hessian, manifold.flat)
    slope = np.where(values > 0, Regime(regime.K, 1, regime.lr, regime.H).boost(2 * values), 0.0)
    pull = manifold.third(zeta, (vectors * slope) @ vectors.T)
    P = tangent_projector(hessian, manifold.flat)
    return np.asarray(-strength / (4 * regime.batch) * P @ pull)
