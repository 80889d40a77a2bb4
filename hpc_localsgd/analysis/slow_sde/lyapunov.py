"""The Lyapunov operator: the covariance at which noise and the pull of a valley are in balance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

FLAT = 1e-9  # an eigenvalue below this share of the largest belongs to the manifold


def lyapunov(
    hessian: np.ndarray,
    sigma: np.ndarray,
    weight: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    flat: float = FLAT,
) -> np.ndarray:
    """Return V_H[Sigma]: the X with H X + X H = Sigma, where the Hessian is not flat.

        X = sum_ij w(l_i, l_j) / (l_i + l_j) <Sigma, v_i v_j^T> v_i v_j^T

    over the pairs with l_i != 0 or l_j != 0. With w = 1 it is the hat operator of the Slow SDE,
    with w = psi(eta H (l_i + l_j)) its counterpart hatPsi in drift-II.

    Args:
        hessian: [d, d], symmetric, positive semi-definite (a point of a manifold of minimisers).
        sigma: [d, d], symmetric; what of it lies in the flat directions alone is left out.
        weight: w(l_i, l_j) for arrays of eigenvalues; 1 if not given.
        flat: Eigenvalues below this share of the largest count as 0.

    Returns:
        [d, d], symmetric.

    Raises:
        ValueError: The Hessian has a negative eigenvalue: the point is not a minimiser.
    """
    values, vectors = spectrum(hessian, flat)
    first, second = values[:, None], values[None, :]
    curved = (first + second) > 0
    total = np.where(curved, first + second, 1.0)
    factor = np.where(curved, 1.0, 0.0) / total
    if weight is not None:
        factor = factor * weight(first, second)
    found = vectors @ (factor * (vectors.T @ sigma @ vectors)) @ vectors.T
    return np.asarray(0.5 * (found + found.T))


def split(
    hessian: np.ndarray, sigma: np.ndarray, flat: float = FLAT
) -> tuple[np.ndarray, np.ndarray]:
    """Split the noise into Sigma_par = P Sigma P, within the manifold, and Sigma_dia, the rest.

    Args:
        hessian: [d, d] at a point of the manifold.
        sigma: [d, d], covariance of the gradient.
        flat: See `lyapunov`.

    Returns:
        Sigma_par [d, d] and Sigma_dia = Sigma - Sigma_par [d, d].
    """
    P = tangent_projector(hessian, flat)
    parallel = P @ sigma @ P
    return parallel, sigma - parallel


def tangent_projector(hessian: np.ndarray, flat: float = FLAT) -> np.ndarray:
    """Return the projector [d, d] onto the flat directions of the Hessian: dPhi on the manifold.

    Args:
        hessian: [d, d] at a point of the manifold.
        flat: See `lyapunov`.
    """
    values, vectors = spectrum(hessian, flat)
    tangent = vectors[:, values == 0]
    return np.asarray(tangent @ tangent.T)


def spectrum(hessian: np.ndarray, flat: float = FLAT) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues [d], flat ones exactly 0, and the eigenvectors [d, d] in columns.

    Args:
        hessian: [d, d], symmetric.
        flat: See `lyapunov`.

    Raises:
        ValueError: An eigenvalue is negative.
    """
    values, vectors = np.linalg.eigh(hessian)
    threshold = flat * max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
    if values[0] < -threshold:
        raise ValueError(
            f"the Hessian has the eigenvalue {values[0]:.3g}, the largest is {values[-1]:.3g}: the "
            "Slow SDE lives on minimisers; project the point first, or raise `flat`"
        )
    return np.where(values <= threshold, 0.0, values), vectors
