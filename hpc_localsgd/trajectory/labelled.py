"""A trajectory as an `xarray.Dataset`, for those who like their axes named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.trajectory.records import Series
from hpc_localsgd.trajectory.schema import ROUND_COLUMNS, TrajectoryError

if TYPE_CHECKING:
    from xarray import Dataset

    from hpc_localsgd.trajectory.reader import Trajectory


def dataset(run: Trajectory) -> Dataset:
    """Return the record as a data set, see `Trajectory.to_xarray`.

    Args:
        run: The run.

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
    variables = _rounds(run)
    coordinates: dict[str, Any] = {}
    wide = run.most_workers
    for name in run.names():
        if "parameter" not in run.about(name)["dims"].split():
            series = run.series(name)
            variables[name] = _variable(series, wide)
            coordinates[f"{name}/step"] = (f"{name}/step", series.step, {"units": "steps"})
    attrs = {name: value for name, value in run.attrs.items() if name != "config"}
    attrs["config"] = run.config_text
    return Dataset(variables, coordinates, attrs)


def _rounds(run: Trajectory) -> dict[str, Any]:
    found = {}
    for column in ROUND_COLUMNS:
        dims = ("round", "worker") if column.per_worker else ("round",)
        said = {"units": column.units, "meaning": column.meaning}
        found[f"rounds/{column.name}"] = (dims, run.rounds[column.name], said)
    return found


def _variable(series: Series, workers: int) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
    """Return a series with axes of its own, so that no two need the same steps or lengths."""
    dims = [f"{series.name}/step"]
    for i, name in enumerate(series.dims):
        shared = name == "worker" and series.value.shape[i + 1] == workers
        dims.append(name if shared else f"{series.name}/{name}")
    return tuple(dims), series.value, {"units": series.units, "meaning": series.meaning}
