"""How fast workers agree: eigenvalues of mixing matrices."""

from __future__ import annotations

from functools import reduce

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology.base import Topology, validate, validate_columns

_ZERO = 1e-12  # an eigenvalue below it is rounding
_DRAWS = 16  # of a random topology, to measure its contraction


def spectral_gap(W: np.ndarray) -> float:
    """Return 1 - max_{j != 0} |lambda_j|: 1 is the exact average in one mix, 0 is never.

    The eigenvalue lambda_0 = 1 of the mean is taken out by subtracting 1 1^T / n, which leaves
    the others as they are, in symmetric and in directed graphs. For W with W W^T = W^T W
    (symmetric, circulant) each mix shrinks ||x - mean|| at least by the factor 1 - gap; for other
    directed graphs it does so in the long run.

    Args:
        W: Column-stochastic, [n, n]: with push-sum it is ||x - mean|| of what is read that shrinks.
    """
    validate_columns(W)
    rest = W - 1 / len(W)
    eigenvalues = np.linalg.eigvalsh(rest) if _symmetric(W) else np.linalg.eigvals(rest)
    largest = float(np.abs(eigenvalues).max())
    return 1.0 if largest < _ZERO else max(0.0, 1 - largest)


def gap(topology: Topology, n: int) -> float:
    """Return the spectral gap per mix: 1 - the factor that remains of ||x - mean||.

    Static (period 1): `spectral_gap(W)`.

    Periodic: 1 - (max_{j != 0} |lambda_j|)^(1/p), lambda of the product of the p mixes of one
    period, so the geometric mean of their factors. 1 if one period is the exact average.

    Random (period None): 1 - sqrt(rho), rho = E ||W x||^2 / ||x||^2 over the mixes and over the
    directions of x, mean zero; from E ||W - W 1 1^T / n||_F^2 = (n - 1) rho. This is exact for
    `random_pairs`, where every mix has the same norm; else it is the mean of 16 mixes.
    """
    period = topology.period(n)
    if period is None:
        return 1 - _random_factor(topology, n)
    mixes = [topology.push_matrix(n, k) for k in range(period)]
    product = reduce(lambda done, W: W @ done, mixes)
    return 1 - (1 - spectral_gap(product)) ** (1 / period)


def contraction(W: np.ndarray) -> tuple[float, float]:
    """Return what one mix leaves of the consensus distance: (expected, at most), in 0..1.

    With J = 1 1^T / n: at most ||W - J||_2^2 of sum_k ||x_k - mean||^2 remains, and
    (||W||_F^2 - 1) / (n - 1) is expected where the deviations have nothing to do with the graph.
    Local steps make neighbours alike, so what is measured moves from the second to the first.

    Args:
        W: Doubly stochastic, [n, n].

    Example:
        >>> from hpc_localsgd.topology import ring
        >>> expected, at_most = contraction(ring().matrix(8))
        >>> round(expected, 3), round(at_most, 3)
        (0.238, 0.648)
    """
    validate(W)
    n = len(W)
    if n == 1:
        return 0.0, 0.0
    singular = np.linalg.svd(W - 1 / n, compute_uv=False)
    return _expected(W), float(singular[0] ** 2)


def lambda_min(W: np.ndarray) -> float:
    """Return the smallest eigenvalue of a symmetric W.

    D2 needs lambda_min > -1/3; adapt-while-communicate gossip on a curvature h needs
    lr h < 1 + lambda_min.

    Raises:
        ConfigurationError: (a ValueError) W is not symmetric.
    """
    if not _symmetric(W):
        raise ConfigurationError(
            "this mixing matrix is not symmetric (exponential graphs are directed), so it has no "
            "smallest real eigenvalue: use an undirected topology, such as lazy(of=ring())"
        )
    return float(np.linalg.eigvalsh(W)[0])


def _symmetric(W: np.ndarray) -> bool:
    return bool(np.allclose(W, W.T, rtol=0, atol=_ZERO))


def _random_factor(topology: Topology, n: int) -> float:
    left = [_expected(topology.push_matrix(n, k)) for k in range(_DRAWS)]
    return float(np.mean(left)) ** 0.5


def _expected(W: np.ndarray) -> float:
    """Return E ||W x||^2 / ||x||^2 over directions x of mean zero."""
    rest = W - W.mean(axis=1, keepdims=True)  # W of what x is without its mean
    return float(np.square(rest).sum() / max(1, len(W) - 1))
