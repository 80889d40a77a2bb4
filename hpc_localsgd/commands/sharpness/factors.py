"""Eigenvalues and trace of a matrix: the Gauss-Newton and Fisher matrices; the gradient's noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hpc_localsgd.commands.sharpness.values import Value, of_estimate, of_pairs, of_trace
from hpc_localsgd.curvature import (
    alignment,
    covariance,
    hutchinson,
    noise_trace,
    top_eigenvalues,
)

if TYPE_CHECKING:
    from hpc_localsgd.commands.sharpness.options import SharpnessOptions
    from hpc_localsgd.commands.sharpness.shared_loss import SharedLoss
    from hpc_localsgd.curvature import Eigenpairs, Estimate
    from hpc_localsgd.curvature.probes import Product
    from hpc_localsgd.types import Vector


def factors(
    team: SharedLoss, o: SharpnessOptions, x: Vector, pairs: Eigenpairs | None
) -> Iterator[Value]:
    """Yield the factors asked for at x, the point of `team.at`.

    Args:
        team: All ranks.
        o: What to measure.
        x: [P].
        pairs: The Hessian's known eigenpairs.
    """
    if o.ggn:
        yield from _spectrum(team.ggn, o, x, "ggn/", "the generalised Gauss-Newton matrix")
    if o.fisher:
        yield from _spectrum(team.fisher, o, x, "fisher/", "the empirical Fisher matrix")
    if o.noise:
        yield from _noise(team, o, x, pairs)


def eigenpairs_of(product: Product, o: SharpnessOptions, x: Vector) -> Eigenpairs | None:
    """Return the largest eigenvalues of a matrix and their vectors; None if none are asked for."""
    if not o.eigenvalues:
        return None
    return top_eigenvalues(product, x, o.eigenvalues, tolerance=o.tolerance, seed=o.seed)


def trace_of(
    product: Product, o: SharpnessOptions, x: Vector, known: Eigenpairs | None
) -> Estimate | None:
    """Return the trace of a matrix of which some eigenpairs are known; None if not asked for."""
    return hutchinson(product, x, known=known, **_drawn(o)) if o.trace_probes else None


def _spectrum(
    product: Product, o: SharpnessOptions, x: Vector, prefix: str, of: str
) -> Iterator[Value]:
    pairs = eigenpairs_of(product, o, x)
    yield from of_pairs(pairs, prefix, of)
    yield from of_trace(trace_of(product, o, x, pairs), prefix, of)


def _noise(
    team: SharedLoss, o: SharpnessOptions, x: Vector, pairs: Eigenpairs | None
) -> Iterator[Value]:
    g = team.gradient(x)
    found = noise_trace(team.squared_gradients().cpu().numpy(), g)
    about = (
        "tr Sigma = mean |g_i|^2 - |g|^2 over the subset, undisturbed: without the noise of labels "
        "and augmentation, which gradient/noise_trace has; its error is that of sampling"
    )
    yield from of_estimate("noise/trace", found, about, "1")
    size = float(g.double().square().sum())
    about = (
        "|g|^2, squared length of the mean gradient of the n samples of the subset; less tr Sigma "
        "/ n it is that of all data, and tr Sigma over that is the noise scale"
    )
    yield Value("noise/gradient_squared", size, about)
    if o.trace_probes:
        sigma = covariance(team.fisher, g)
        cosine = alignment(team.products, sigma, x, known=pairs, **_drawn(o))
        about = "tr(H Sigma) / (|H|_F |Sigma|_F)"
        yield from of_estimate("noise/alignment", cosine, about, "1")


def _drawn(o: SharpnessOptions) -> dict[str, Any]:
    return {
        "tolerance": o.trace_tolerance,
        "most": o.trace_probes,
        "vectors": o.vectors,
        "seed": o.seed,
    }
