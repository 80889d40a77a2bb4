"""The Slow SDE itself: its drift and its diffusion at a point of a manifold of minimisers.

    d zeta = P( B^-1/2 Sigma_par^1/2 dW                    diffusion, independent of H
                - 1/(2B) grad^3 L [hatSigma_dia] dt        drift-I, that of SGD
                - (K-1)/(2B) grad^3 L [hatPsi] dt )        drift-II, of the local steps

in the time t = eta^2 x steps. P(A dW + b dt) keeps zeta on the manifold: it is the projection of
A dW + b dt on the tangent space with the Ito correction 1/2 d^2 Phi [A A^T], which stepping through
Phi brings about by itself (see `integrate`).

Source: Gu et al., Why (and When) does Local SGD Generalize Better than SGD?, arXiv:2303.01215,
Definitions 3.2 and 3.3. Both drifts together are -1/2 grad^3 L of the workers' covariance, which
is how they are computed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpc_localsgd.analysis.slow_sde.lyapunov import FLAT, split, tangent_projector
from hpc_localsgd.analysis.slow_sde.regime import Regime


@dataclass(frozen=True)
class Manifold:
    """A manifold of minimisers of a loss L in d dimensions, as functions of a point on it.

    Attributes:
        hessian: zeta [d] -> the Hessian of L, [d, d].
        third: zeta [d], M [d, d] -> grad^3 L[M], the vector sum_jk d_ijk L M_jk, [d].
        noise: zeta [d] -> covariance of the gradient of a single sample, [d, d].
        project: x [d] -> Phi(x) [d], the end of the gradient flow from x. See `flow_to_minimum`
            for one that needs the gradient only.
        flat: Eigenvalues of the Hessian below this share of the largest count as 0.

    Example:
        The parabolic valley L = (1 + x^2) y^2 / 2, whose minimisers are y = 0:

        >>> valley = Manifold(
        ...     hessian=lambda z: np.diag([0.0, 1 + z[0] ** 2]),
        ...     third=lambda z, M: np.array([2 * z[0] * M[1, 1], 4 * z[0] * M[0, 1]]),
        ...     noise=lambda z: np.diag([0.0, 1 + z[0] ** 2]),
        ...     project=lambda z: np.array([z[0], 0.0]),
        ... )
        >>> drift(valley, np.array([1.0, 0.0]), Regime(K=1, batch=8, lr=0.01))  # -x / (2B)
        array([-0.0625,  0.    ])
    """

    hessian: Callable[[np.ndarray], np.ndarray]
    third: Callable[[np.ndarray, np.ndarray], np.ndarray]
    noise: Callable[[np.ndarray], np.ndarray]
    project: Callable[[np.ndarray], np.ndarray]
    flat: float = FLAT


def drift(manifold: Manifold, zeta: np.ndarray, regime: Regime) -> np.ndarray:
    """Return drift-I plus drift-II, tangent to the manifold, per unit of t = eta^2 x steps.

    Args:
        manifold: The minimisers.
        zeta: [d], a point of it.
        regime: K, B, eta and H. K = 1 gives the Slow SDE of SGD.

    Returns:
        [d]. It does not contain the Ito correction.
    """
    hessian = manifold.hessian(zeta)
    _, normal = split(hessian, manifold.noise(zeta), manifold.flat)
    covariance = regime.covariance(hessian, normal)
    pull = manifold.third(zeta, covariance)
    return -tangent_projector(hessian, manifold.flat) @ pull / (2 * regime.lr)


def diffusion(manifold: Manifold, zeta: np.ndarray, regime: Regime) -> np.ndarray:
    """Return A = B^-1/2 Sigma_par^1/2, the symmetric root; K, H and eta do not enter.

    Args:
        manifold: The minimisers.
        zeta: [d], a point of it.
        regime: Its batch.

    Returns:
        [d, d]; A A^T dt is the covariance of a step of length dt.
    """
    parallel, _ = split(manifold.hessian(zeta), manifold.noise(zeta), manifold.flat)
    values, vectors = np.linalg.eigh(parallel / regime.batch)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
