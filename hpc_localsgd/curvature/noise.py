"""How the noise of the gradient lies in the landscape: its alignment with the Hessian.

    alignment = tr(H Sigma) / (|H|_F |Sigma|_F)         1 where Sigma is proportional to H

the cosine between two matrices. Label noise on a manifold of minimisers has Sigma = c H, which is
what turns Local SGD's drift into a descent of tr H (see `analysis.slow_sde.label_noise`); isotropic
noise has tr H / (sqrt(P) |H|_F).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.curvature.probes import Estimate, rademacher
from hpc_localsgd.curvature.trace import LEAST, deflation

if TYPE_CHECKING:
    from hpc_localsgd.curvature.eigenvalues import Eigenpairs
    from hpc_localsgd.curvature.probes import Product
    from hpc_localsgd.types import Rows, Vector


def covariance(fisher: Product, gradient: Vector) -> Product:
    """Return products with Sigma = F - g g^T, the covariance of the gradient of one sample.

    Args:
        fisher: Multiplies rows [m, P] with the empirical Fisher matrix.
        gradient: g [P], the mean gradient.
    """
    return lambda vectors: fisher(vectors) - torch.outer(vectors @ gradient, gradient)


def noise_trace(sums: np.ndarray, gradient: Vector) -> Estimate:
    """Return the trace of Sigma, mean |g_i|^2 - |g|^2, with its standard error over samples.

    Exact for the given samples; the error is that of taking them for the whole data.

    Args:
        sums: [3], of |g_i|^2, |g_i|^4 and 1 over all samples.
        gradient: g [P].
    """
    squared, fourth, N = (float(s) for s in sums)
    mean = squared / N
    spread = max(fourth / N - mean**2, 0.0)
    error = np.sqrt(spread / (N - 1)) if N > 1 else np.nan
    return Estimate(mean - float(gradient.double().square().sum()), float(error), int(N))


def alignment(
    hessian: Product,
    sigma: Product,
    like: Vector,
    *,
    tolerance: float = 0.02,
    most: int = 200,
    least: int = LEAST,
    vectors: int = 10,
    known: Eigenpairs | None = None,
    seed: int = 0,
) -> Estimate:
    """Estimate tr(H Sigma) / (|H|_F |Sigma|_F) with random signs, and its standard error.

    The same vectors z serve all three: E (Hz).(Sigma z), E |Hz|^2, E |Sigma z|^2. Known eigenpairs
    of H are taken out of z and their parts added exactly, as for the trace. The error is the
    jackknife's (Efron, 1982), since the three vary together.

    Args:
        hessian: Multiplies rows [m, P] with H.
        sigma: Multiplies rows [m, P] with Sigma.
        like: [P]; gives length, dtype and device.
        tolerance: Standard error, relative, at which enough was drawn.
        most: Probes at which it ends in any case.
        least: Probes before it may end.
        vectors: Probes in a pass.
        known: Eigenpairs of H to take out first.
        seed: Of the probes.
    """
    exact, V = _exact_parts(sigma, known)
    samples = np.empty((0, 3))
    while len(samples) < most:
        z = rademacher(len(samples), min(vectors, most - len(samples)), like, seed)
        if V is not None:
            z = z - (z @ V.T) @ V
        samples = np.concatenate([samples, _three(hessian(z), sigma(z))])
        found = _ratio(samples, exact)
        if len(samples) >= least and found.error <= tolerance * abs(found.value):
            break
    return found


def _exact_parts(sigma: Product, known: Eigenpairs | None) -> tuple[np.ndarray, Rows | None]:
    """Return what the known eigenvectors add to the three sums [3], and those vectors."""
    _, V = deflation(known)
    if V is None or known is None:
        return np.zeros(3), None
    values = torch.from_numpy(known.values[: len(V)]).to(V)
    return _three(values[:, None] * V, sigma(V)).sum(0), V


def _three(a: Rows, b: Rows) -> np.ndarray:
    """Return a.b, a.a and b.b, row by row: [m, 3]."""
    a, b = a.double(), b.double()
    return torch.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)], dim=1).cpu().numpy()


def _ratio(samples: np.ndarray, exact: np.ndarray) -> Estimate:
    """Return the cosine of the means [n, 3], and the jackknife's standard error."""
    n = len(samples)

    def cosine(means: np.ndarray) -> np.ndarray:
        both, first, second = np.moveaxis(means + exact, -1, 0)
        size = np.sqrt(first * second)
        return np.where(size > 0, both / np.where(size > 0, size, 1.0), np.nan)

    value = float(cosine(samples.mean(0)))
    if n < 2:
        return Estimate(value, float("nan"), n)
    without = cosine((samples.sum(0) - samples) / (n - 1))
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    return Estimate(value, float(error), n)
