"""Columns that grow together: rows wait in memory, and reach the file many at a time.

A table holds no HDF5 object, only names and how many rows are safely in the file. Writing is
therefore repeatable: a write that failed half-way is done again at the same place, and a file that
had to be reopened is simply handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from hpc_localsgd.trajectory.new_groups import NewGroups
from hpc_localsgd.trajectory.schema import UNWRITTEN, chunk_rows, fill_value

_BIG_ROW_BYTES = 1 << 20  # from here on, stacking rows before writing would only copy them
_MAX_CHUNK_NUMBERS = 1 << 26  # a chunk of HDF5 is below 4 GiB; a longer row is several chunks
_DATASET_BYTES = 16 * 1024  # object header, index root and group entry of a new dataset
_INDEX_BYTES = 256  # share of the chunk index that one chunk takes, rounded up


@dataclass(frozen=True)
class Dataset:
    """One dataset of a table.

    Attributes:
        name: Name in the group.
        row: Shape of one row, ``()`` for a number.
        dtype: NumPy dtype on disk.
        chunk: Shape of a chunk; by default about 32 KiB of rows.
        attrs: Attributes, the unit above all.
        filters: Compression, as keyword arguments of h5py.
    """

    name: str
    row: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    filters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.row, dtype=np.int64)) * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...]:
        """Chunk shape that HDF5 is given; no axis is 0, which HDF5 refuses."""
        return self.chunk or (chunk_rows(self.row_bytes), *(max(1, n) for n in self.row))

    def new_bytes(self, written: int, rows: int) -> int:
        """Return a bound on the file space that `rows` rows take after the first `written`."""
        per_chunk = self.chunks[0]
        new_chunks = -(-(written + rows) // per_chunk) - -(-written // per_chunk)
        chunk_bytes = max(per_chunk * self.row_bytes, self.dtype.itemsize)
        return new_chunks * (chunk_bytes + chunk_bytes // 64 + _INDEX_BYTES)


def one_row_chunk(row: tuple[int, ...]) -> tuple[int, ...]:
    """Return the chunk of one row ``[P]``, or of a worker's row of ``[K, P]``: one read each.

    Args:
        row: Shape of a row; its last axis is P.
    """
    return (1, *(1 for _ in row[:-1]), max(1, min(row[-1], _MAX_CHUNK_NUMBERS)))


class Table:
    """Datasets of one group that always have the same number of rows.

    Args:
        path: Path of the group in the file.
        datasets: What a row consists of.
        attrs: Attributes of the group, written when it is created.
        written: Rows that are already in the file.
    """

    def __init__(
        self,
        path: str,
        datasets: Sequence[Dataset],
        attrs: Mapping[str, Any] | None = None,
        written: int = 0,
    ) -> None:
        """Prepare the table; see the class."""
        self.path = path
        self.datasets = {dataset.name: dataset for dataset in datasets}
        self.attrs = dict(attrs or {})
        self.written = written
        self.row_bytes = sum(dataset.row_bytes for dataset in datasets)
        self._rows: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        """Return the number of rows that wait in memory."""
        return len(self._rows)

    def append(self, row: tuple[Any, ...]) -> None:
        """Keep one row for the next write.

        Args:
            row: One value per dataset, in their order, each of the dataset's row shape.
        """
        self._rows.append(row)

    def needed_bytes(self) -> int:
        """Return a bound on the file space that the waiting rows take."""
        grow = sum(d.new_bytes(self.written, len(self._rows)) for d in self.datasets.values())
        return grow + (0 if self.written else _DATASET_BYTES * (1 + len(self.datasets)))

    def write(self, groups: NewGroups) -> list[h5py.Dataset]:
        """Write the waiting rows after the `written` ones, without forgetting them.

        Args:
            groups: Of the open file.

        Returns:
            What was written to. Keep it until the file is flushed: of what cannot be written while
            HDF5 closes a dataset nobody is told.
        """
        found = []
        group = groups.group(self.path)
        for name, value in self.attrs.items():
            if name not in group.attrs:
                group.attrs[name] = value
        for index, spec in enumerate(self.datasets.values()):
            dataset = group[spec.name] if spec.name in group else _create(group, spec)
            _write_rows(dataset, self.written, [row[index] for row in self._rows], spec)
            found.append(dataset)
        return found

    def commit(self) -> None:
        """Count the waiting rows, which are safely in the file, as written, and forget them."""
        self.written += len(self._rows)
        self._rows = []


def complete_rows(group: h5py.Group, names: Sequence[str]) -> int:
    """Return the rows that every column has: after a kill, fewer than some have.

    Args:
        group: The table's group.
        names: Its columns.

    Returns:
        The shortest length, or fewer when the last chunk of an integer column never reached the
        disk.
    """
    if any(name not in group for name in names):
        return 0
    rows = min(group[name].shape[0] for name in names)
    for name in names:
        if group[name].dtype.kind == "i" and rows:
            holes = np.flatnonzero(group[name][:rows] == UNWRITTEN)
            rows = int(holes[0]) if holes.size else rows
    return rows


def _create(group: h5py.Group, spec: Dataset) -> h5py.Dataset:
    packed = spec.dtype.kind == "u"  # bfloat16: 0x7fc0 is its NaN
    dataset = group.create_dataset(
        spec.name,
        shape=(0, *spec.row),
        maxshape=(None, *spec.row),
        chunks=spec.chunks,
        dtype=spec.dtype,
        fillvalue=0x7FC0 if packed else fill_value(spec.dtype),
        **spec.filters,
    )
    dataset.attrs.update(spec.attrs)
    return dataset


def _write_rows(dataset: h5py.Dataset, at: int, rows: list[Any], spec: Dataset) -> None:
    dataset.resize(at + len(rows), axis=0)
    if spec.row_bytes < _BIG_ROW_BYTES:
        dataset[at:] = np.asarray(rows, dtype=spec.dtype).reshape(len(rows), *spec.row)
        return
    for i, row in enumerate(rows):
        dataset[at + i] = row
