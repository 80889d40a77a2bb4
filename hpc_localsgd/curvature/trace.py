"""The trace of the Hessian from products with random signs.

    tr H = E z^T H z,    z in {-1, 1}^P,    Var z^T H z = 2 (||H||_F^2 - sum_i h_ii^2)

Source: Hutchinson, 1989. The few large eigenvalues make nearly all of that variance; where they are
known, they are taken out and added exactly (Gambhir, Stathopoulos & Orginos, SIAM J. Sci. Comput.
39, 2017; the idea of Hutch++), tr H = sum_i l_i + E (Q z)^T H (Q z), Q = I - V^T V.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.curvature.probes import Estimate, rademacher

if TYPE_CHECKING:
    from hpc_localsgd.curvature.eigenvalues import Eigenpairs
    from hpc_localsgd.curvature.probes import Product
    from hpc_localsgd.types import Rows, Vector

LEAST = 10  # probes before an error bar is believed enough to stop


def hutchinson(
    product: Product,
    like: Vector,
    *,
    tolerance: float = 0.02,
    most: int = 200,
    least: int = LEAST,
    vectors: int = 10,
    known: Eigenpairs | None = None,
    seed: int = 0,
) -> Estimate:
    """Estimate the trace, with its standard error, until that is small enough.

    Args:
        product: Multiplies rows [m, P] with the symmetric matrix.
        like: [P]; gives length, dtype and device.
        tolerance: Standard error, relative to the trace, at which enough was drawn.
        most: Probes at which it ends in any case.
        least: Probes before it may end.
        vectors: Probes in a pass.
        known: Eigenpairs to take out first.
        seed: Of the probes.
    """
    exact, V = deflation(known)
    samples: list[float] = []
    while len(samples) < most:
        count = min(vectors, most - len(samples))
        z = rademacher(len(samples), count, like, seed)
        if V is not None:
            z = z - (z @ V.T) @ V
        samples += (z * product(z)).double().sum(1).tolist()
        found = Estimate.of(samples, exact)
        if len(samples) >= least and found.error <= tolerance * abs(found.value):
            break
    return found


def deflation(known: Eigenpairs | None) -> tuple[float, Rows | None]:
    """Return the exact part of the trace, and the orthonormal rows it belongs to."""
    if known is None:
        return 0.0, None
    there = np.isfinite(known.values)
    if not there.any():
        return 0.0, None
    return float(known.values[there].sum()), known.vectors[: int(there.sum())]
