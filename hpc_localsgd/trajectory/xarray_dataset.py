"""A trajectory as an `xarray.Dataset`, for those who like their axes named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.trajectory.records import Rounds, Series
from hpc_localsgd.trajectory.schema import ROUND_COLUMNS, TrajectoryError

if TYPE_CHECKING:
    from xarray import Dataset


def dataset(
    rounds: Rounds, series: Iterable[Series], workers: int, attrs: Mapping[str, Any]
) -> Dataset:
    """Return a record as a data set, see `Trajectory.to_xarray`.

    Args:
        rounds: The table of rounds.
        series: All of them but those over parameters.
        workers: Length of the axis of workers.
        attrs: Facts of the run.

    Raises:
        TrajectoryError: If xarray is missing.
    """
    try:
        from xarray import Dataset
    except ImportError as error:
        raise TrajectoryError(
            "to_xarray needs xarray: pip install xarray. Without it, `rounds` and `series` give "
            "the same numbers as NumPy arrays."
        ) from error
    variables = _columns(rounds)
    coordinates: dict[str, Any] = {}
    for each in series:
        variables[each.name] = _variable(each, workers)
        coordinates[f"{each.name}/step"] = (f"{each.name}/step", each.step, {"units": "steps"})
    return Dataset(variables, coordinates, dict(attrs))


def _columns(rounds: Rounds) -> dict[str, Any]:
    found = {}
    for column in ROUND_COLUMNS:
        dims = ("round", "worker") if column.per_worker else ("round",)
        said = {"units": column.units, "meaning": column.meaning}
        found[f"rounds/{column.name}"] = (dims, rounds[column.name], said)
    return found


def _variable(series: Series, workers: int) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
    """Return a series with axes of its own, so that no two need the same steps or lengths."""
    dims = [f"{series.name}/step"]
    for i, name in enumerate(series.dims):
        shared = name == "worker" and series.value.shape[i + 1] == workers
        dims.append(name if shared else f"{series.name}/{name}")
    return tuple(dims), series.value, {"units": series.units, "meaning": series.meaning}
