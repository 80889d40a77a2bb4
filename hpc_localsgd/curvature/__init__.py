"""The curvature of a task's loss at a flat vector, by Hessian-vector products.

`Risk` knows a task and a fixed subset of its data; the estimators know only a product with the
Hessian, or losses at points, so that a caller can spread either over ranks.
"""

from __future__ import annotations

from hpc_localsgd.curvature.density import Density, spectral_density
from hpc_localsgd.curvature.directions import (
    along,
    deviations,
    half_trace,
    smoothed,
    smoothed_by_workers,
    worst_direction,
)
from hpc_localsgd.curvature.eigenvalues import Eigenpairs, top_eigenvalues
from hpc_localsgd.curvature.noise import alignment, covariance, noise_trace
from hpc_localsgd.curvature.probes import Estimate
from hpc_localsgd.curvature.risk import Risk
from hpc_localsgd.curvature.subset import build_for_curvature, in_chunks, pieces
from hpc_localsgd.curvature.trace import hutchinson

__all__ = [
    "Density",
    "Eigenpairs",
    "Estimate",
    "Risk",
    "alignment",
    "along",
    "build_for_curvature",
    "covariance",
    "deviations",
    "half_trace",
    "hutchinson",
    "in_chunks",
    "noise_trace",
    "pieces",
    "smoothed",
    "smoothed_by_workers",
    "spectral_density",
    "top_eigenvalues",
    "worst_direction",
]
