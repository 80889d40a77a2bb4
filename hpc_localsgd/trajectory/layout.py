"""The tables of the tree in `schema`, for a new file or for one that is reopened."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from hpc_localsgd.trajectory.encoding import disk_dtype, filters
from hpc_localsgd.trajectory.header import Header
from hpc_localsgd.trajectory.schema import ROUND_COLUMNS, TrajectoryError
from hpc_localsgd.trajectory.tables import Dataset, Table, complete_rows, one_row_chunk

_STEPS = {"units": "steps"}


def rounds_table(file: h5py.File, K: int) -> Table:
    """Return the table ``/rounds``, continued when the file has one.

    Args:
        file: The open file.
        K: Workers of the run.
    """
    columns = [
        Dataset(
            name=column.name,
            row=(K,) if column.per_worker else (),
            dtype=np.dtype(column.dtype),
            attrs={"units": column.units, "meaning": column.meaning},
        )
        for column in ROUND_COLUMNS
    ]
    return _continued(file, Table("/rounds", columns))


def series_table(
    file: h5py.File,
    name: str,
    value: np.ndarray,
    *,
    units: str,
    dims: tuple[str, ...],
    meaning: str,
    samples: int = 0,
) -> Table:
    """Return the table of one series, continued when the file has it.

    Args:
        file: The open file.
        name: Name of the series.
        value: Its first value, which fixes shape and precision.
        units: Unit, ``1`` for none.
        dims: A name for each axis of `value`.
        meaning: One sentence.
        samples: How many samples a value is the mean of; 0 is not written.

    Raises:
        TrajectoryError: If `dims` does not name each axis, or the file has the series in another
            shape.
    """
    if len(dims) != value.ndim:
        raise TrajectoryError(
            f"series {name!r}: values of shape {value.shape} need {value.ndim} name(s) in dims, got"
            f' {dims}. Write for example dims=("worker",).'
        )
    if value.dtype.kind not in "fiub" or not value.size:
        raise TrajectoryError(
            f"series {name!r}: a value must be a number or an array of numbers, not {value!r}."
        )
    columns = [
        Dataset("step", (), np.dtype("int64"), attrs=_STEPS),
        Dataset("value", value.shape, value_dtype(value)),
    ]
    attrs: dict[str, Any] = {"units": units, "dims": " ".join(dims), "meaning": meaning}
    attrs |= {"samples": samples} if samples else {}
    return _continued(file, Table(f"/series/{name}", columns, attrs))


def value_dtype(value: np.ndarray) -> np.dtype:
    """Return the precision of a series: float32 for arrays of float32 or less, else float64.

    Whole numbers become float64 too (exact to 2^53), so that a missing value can be NaN.

    Args:
        value: A value of the series.
    """
    small = value.ndim > 0 and value.dtype.kind == "f" and value.dtype.itemsize <= 4
    return np.dtype("float32" if small else "float64")


def snapshots_table(
    file: h5py.File, header: Header, workers: bool, encoding: str, compression: str | None
) -> Table:
    """Return the table ``/snapshots``, continued when the file has one.

    Args:
        file: The open file.
        header: Of the run; its K and P are the shapes.
        workers: Whether every worker's parameters are kept besides their mean.
        encoding: Dtype of the numbers.
        compression: Name of the filter, None for none.
    """
    rows = {"mean": (header.P,), "workers": (header.K, header.P)}
    attrs = {"encoding": encoding, "compression": compression or "none", "units": "1"}
    columns = [Dataset("step", (), np.dtype("int64"), attrs=_STEPS)]
    for name in ("mean", "workers") if workers else ("mean",):
        columns.append(
            Dataset(
                name,
                rows[name],
                disk_dtype(encoding),
                one_row_chunk(rows[name]),
                attrs,
                filters(compression),
            )
        )
    return _continued(file, Table("/snapshots", columns))


def _continued(file: h5py.File, table: Table) -> Table:
    """Return `table`, counting the whole rows that the file already has."""
    group = file.get(table.path)
    if group is None or not set(table.datasets) <= set(group):
        return table
    for name, spec in table.datasets.items():
        _must_match(f"{table.path}/{name}", group[name], spec)
    table.written = complete_rows(group, list(table.datasets))
    return table


def _must_match(path: str, found: h5py.Dataset, spec: Dataset) -> None:
    have: tuple[Any, ...] = (found.shape[1:], found.dtype, found.attrs.get("encoding"))
    want = (spec.row, spec.dtype, spec.attrs.get("encoding"))
    if have != want:
        raise TrajectoryError(
            f"{path} holds rows of {have[0]} {have[2] or have[1]}, this run writes {want[0]}"
            f' {want[2] or want[1]}. Continue in a file of its own with mode="resume".'
        )
