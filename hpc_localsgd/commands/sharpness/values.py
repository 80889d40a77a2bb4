"""What a measurement is called in the file of results, and how estimates become such values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_localsgd.curvature import Eigenpairs, Estimate


@dataclass(frozen=True)
class Value:
    """One value of a series, `sharpness/` in front of its name."""

    name: str
    value: Any
    meaning: str
    dims: tuple[str, ...] = ()
    units: str = "1"


def of_pairs(
    pairs: Eigenpairs | None, prefix: str = "", of: str = "the Hessian"
) -> Iterator[Value]:
    """Yield eigenvalues and bounds of their errors; nothing if there are none."""
    if pairs is None:
        return
    dims = ("eigenvalue",)
    about = f"largest eigenvalues of {of}, descending"
    yield Value(f"{prefix}eigenvalues", pairs.values, about, dims)
    bound = "|H v - l v|, which bounds the error of each eigenvalue"
    yield Value(f"{prefix}eigenvalue_residuals", pairs.residuals, bound, dims)


def of_trace(found: Estimate | None, prefix: str = "", of: str = "the Hessian") -> Iterator[Value]:
    """Yield a trace with its standard error and number of probes; nothing if there is none."""
    if found is None:
        return
    yield from of_estimate(f"{prefix}trace", found, f"trace of {of}, Hutchinson", "1")
    drawn = "random vectors drawn for the trace"
    yield Value(f"{prefix}trace_probes", found.probes, drawn)


def of_estimate(name: str, found: Estimate, meaning: str, units: str = "nat") -> Iterator[Value]:
    """Yield an estimate and, beside it, its standard error."""
    yield Value(name, found.value, meaning, (), units)
    yield Value(f"{name}_error", found.error, f"standard error of {name}", (), units)
