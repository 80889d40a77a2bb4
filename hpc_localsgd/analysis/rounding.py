"""What is not more than rounding is left blank: deviations of workers that are equal.

An exchange leaves workers equal up to the rounding of their numbers. The trace of what is left,
1e-13 say, is no spread, and a curvature along it none of the loss. Today's records have exactly 0
there and NaN for the curvature; older ones have the computed values, which are compared with the
rounding of their dtype, for parameters of a size of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hpc_localsgd.trajectory import Series, Trajectory, TrajectoryError

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
NAMES = ("trace", "eigenvalues", "gap", "half_trace", "curvature", "smoothed", "smoothed_error")


def floor_of(source: Trajectory) -> float:
    """Return the trace of Xi up to which the workers of a file are equal but for rounding.

    Args:
        source: The file that has the series.
    """
    if int(source.attrs.get("schema_version", 0)) > 1:
        return 0.0
    try:
        config = source.config
    except TrajectoryError:
        config = {}
    kept = str(config.get("snapshot_dtype", "float32")) if source.path.stem != "trajectory" else ""
    eps = EPS.get(kept or str(config.get("dtype", "float32")), EPS["float32"])
    return eps**2 * source.P


def without_rounding(
    found: Mapping[str, Series], prefix: str, floor: float = 0.0
) -> tuple[dict[str, Series], int]:
    """Return the series with NaN where workers are equal, and the number of steps where they are.

    Args:
        found: Series by name.
        prefix: Of the names that are about deviations: `xi/`, `snapshot_xi_`.
        floor: Trace up to which workers are equal.
    """
    trace = found.get(f"{prefix}trace")
    if trace is None:
        return dict(found), 0
    equal = trace.step[~(trace.value > floor)]
    blanked = dict(found)
    for name in (prefix + name for name in NAMES if prefix + name in found):
        series = found[name]
        value = series.value.astype(float).copy()
        value[np.isin(series.step, equal)] = np.nan
        blanked[name] = replace(series, value=value)
    return blanked, len(equal)


def said(blank: int) -> str:
    """Say for a caption that values were left blank; return "" if none were.

    Args:
        blank: At how many steps.
    """
    if not blank:
        return ""
    times = "step the workers agree" if blank == 1 else "steps the workers agree"
    return f"At {blank} {times} to the rounding of their numbers: left blank."
