"""The largest eigenvalues of the Hessian, by implicitly restarted Lanczos (ARPACK, scipy's eigsh).

Source: Lehoucq, Sorensen & Yang, ARPACK Users' Guide, SIAM 1998. A Ritz value is at most its
residual ||H v - l v|| away from an eigenvalue, which is the error that is returned with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from hpc_localsgd.curvature.probes import Product
    from hpc_localsgd.types import Rows, Vector

ULPS = 4  # by which models that are equal may seem to differ
DENSE_P = 64  # where the whole matrix is cheaper than an iteration


@dataclass(frozen=True)
class Eigenpairs:
    """The k largest eigenvalues, in descending order.

    Attributes:
        values: [k], float64; NaN where the iteration has not converged.
        vectors: [k, P], orthonormal rows; 0 where it has not.
        residuals: [k], ||H v - l v||: a bound of the error of each value.
        products: Products it took, those for the residuals included.
    """

    values: np.ndarray
    vectors: Rows
    residuals: np.ndarray
    products: int


def top_eigenvalues(
    product: Product,
    like: Vector,
    k: int,
    *,
    tolerance: float = 1e-4,
    which: Literal["LA", "LM", "SA"] = "LA",
    seed: int = 0,
    restarts: int = 300,
) -> Eigenpairs:
    """Return the k largest eigenvalues and their eigenvectors.

    Args:
        product: Multiplies rows [m, P] with the symmetric matrix.
        like: [P]; gives length, dtype and device.
        k: How many; at most P.
        tolerance: Residual relative to the eigenvalue at which it has converged.
        which: "LA" the most positive, "LM" the largest in size, "SA" the most negative.
        seed: Of the starting vector.
        restarts: Most restarts of the iteration; what has converged by then is returned.
    """
    P = len(like)
    k = min(k, P)
    calls = _Counted(product, like)
    if P <= max(DENSE_P, 2 * k):
        values, vectors = np.linalg.eigh(calls(np.eye(P)))
        order = np.argsort(np.abs(values) if which == "LM" else values)
        order = order[:k] if which == "SA" else order[::-1][:k]
        values, vectors = values[order], vectors[:, order]
    else:
        values, vectors = _iterate(calls, k, tolerance, which, seed, restarts)
    return _descending(values, vectors, k, calls)


class _Counted:
    """Product in NumPy's float64 or the vectors' float32, with a count of its uses."""

    def __init__(self, product: Product, like: Vector) -> None:
        self.product, self.like, self.count = product, like, 0
        self.dtype = np.dtype("float64" if like.dtype == torch.float64 else "float32")

    def __call__(self, columns: np.ndarray) -> np.ndarray:
        """Return H times columns [P, m]: [P, m]."""
        rows = torch.from_numpy(np.array(columns.T, dtype=self.dtype, order="C"))
        self.count += len(rows)
        return self.product(rows.to(self.like)).T.cpu().numpy()


def _iterate(
    calls: _Counted, k: int, tolerance: float, which: str, seed: int, restarts: int
) -> tuple[np.ndarray, np.ndarray]:
    # Here, because runs that measure no sharpness have no need of scipy.
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    P = len(calls.like)
    operator = LinearOperator(
        (P, P),
        matvec=lambda v: calls(v.reshape(P, 1))[:, 0],
        matmat=calls,
        dtype=calls.dtype,
    )
    start = np.random.default_rng([seed, 1 << 32]).standard_normal(P).astype(calls.dtype)
    basis = min(P - 1, max(2 * k + 10, 20))
    try:
        values, vectors = eigsh(
            operator, k, which=which, v0=start, ncv=basis, tol=tolerance, maxiter=restarts
        )
    except ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
    return np.asarray(values), np.asarray(vectors)


def _descending(values: np.ndarray, vectors: np.ndarray, k: int, calls: _Counted) -> Eigenpairs:
    """Return the pairs sorted, with residuals, and padded to k."""
    order = np.argsort(values)[::-1]
    values, vectors = values[order].astype(np.float64), vectors[:, order]
    padded, residuals = np.full(k, np.nan), np.full(k, np.nan)
    rows = torch.zeros(k, len(calls.like), dtype=calls.like.dtype, device=calls.like.device)
    n = len(values)
    if n:
        padded[:n] = values
        residuals[:n] = np.linalg.norm(calls(vectors) - vectors * values, axis=0)
        rows[:n] = torch.from_numpy(np.ascontiguousarray(vectors.T)).to(rows)
    return Eigenpairs(padded, rows, residuals, calls.count)


def gram_eigenvalues(rows: Rows) -> np.ndarray:
    """Return the K eigenvalues of sum_k d_k d_k^T, descending, from the K x K inner products.

    The P x P matrix has the same eigenvalues, and 0 for all others.

    Args:
        rows: d, [K, P].
    """
    eps = torch.finfo(rows.dtype).eps
    rows = rows.double()
    return descending((rows @ rows.T).cpu().numpy(), eps)


def descending(gram: np.ndarray, eps: float) -> np.ndarray:
    """Return eigenvalues [K] of a Gram matrix [K, K], largest first, those below rounding as 0.

    All are NaN where the matrix has a number that is not finite, for which LAPACK raises.

    Args:
        gram: [K, K], float64.
        eps: Of the numbers it was made from.
    """
    if not np.isfinite(gram).all():
        return np.full(len(gram), np.nan)
    values = np.linalg.eigvalsh(gram)[::-1]
    return np.where(values > len(gram) * eps * values[0], values, 0.0)


def rounding(mean: Vector, eps: float) -> float:
    """Return the spread of models around `mean` [P] that differ by rounding alone.

    Args:
        mean: [P].
        eps: Of the dtype in which the models were computed or stored, whichever is coarser.
    """
    return (ULPS * eps) ** 2 * float(mean.double().square().sum())
