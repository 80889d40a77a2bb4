"""Writes a run's trajectory: rank 0 only, many rows at a time, and never in the way of training.

Rows wait in memory and are flushed about every ten seconds, so a killed run loses at most that.
Between flushes HDF5 holds nothing of ours. What was flushed survives SIGKILL; see `diskspace` for a
full disk.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hpc_localsgd.trajectory import diskspace, layout
from hpc_localsgd.trajectory.encoding import disk_dtype, encode, filters
from hpc_localsgd.trajectory.estimate import human_bytes
from hpc_localsgd.trajectory.header import Header, utc_now
from hpc_localsgd.trajectory.schema import (
    STATUSES,
    NotWritten,
    RecordGone,
    TrajectoryError,
    check_series_name,
)
from hpc_localsgd.trajectory.storage import FAILURES, Mode, Storage
from hpc_localsgd.trajectory.tables import Table
from hpc_localsgd.trajectory.wall_clock import ATTRIBUTE, wall_s

_BUFFER_BYTES = 64 << 20  # snapshots of a large model do not wait for ten seconds to pass


class Writer:
    """The open record of a run. Use it on rank 0, as a context manager.

    Leaving the block closes the file as ``complete``, or as ``stopped`` when an exception passes
    through.

    Args:
        path: ``trajectory.h5``, or the run folder. Missing folders are made.
        header: What the run says about itself.
        mode: ``new`` refuses to touch an existing run; ``overwrite`` replaces it with all its
            segments; ``resume`` writes the next segment (`header.t0` is the step it begins at);
            ``append`` continues in the same file, after the last complete row.
        flush_every_s: Seconds between flushes. 0 flushes every row.
        snapshot_dtype: ``float32``, ``float64``, ``float16`` or ``bfloat16``.
        compression: Of snapshots: None, ``gzip``, or ``zstd``, ``lz4``, ``blosc``, ``bitshuffle``
            (these need the package hdf5plugin).

    Attributes:
        path: The file that is written, which for ``resume`` is a later segment.
        header: As given.

    Raises:
        TrajectoryError: If the file exists and may not be touched, or cannot be made.

    Example:
        >>> import tempfile
        >>> said = ("seed: 1", "digits", "local_sgd()", "every(8)", "simulated(2)")
        >>> header = Header(*said, K=2, P=3, seed=1)
        >>> with Writer(tempfile.mkdtemp(), header) as writer:
        ...     writer.round(step_begin=0, step_end=8, lr=0.1, compute_s=0.5, wait_s=[0.0, 0.1],
        ...                  transfer_s=0.2, payload_bytes=12)
        ...     writer.series("eval/test/accuracy", 8, 0.9, units="fraction")
    """

    def __init__(
        self,
        path: str | Path,
        header: Header,
        *,
        mode: Mode = "new",
        flush_every_s: float = 10.0,
        snapshot_dtype: str = "float32",
        compression: str | None = None,
    ) -> None:
        """Open the record; see the class."""
        disk_dtype(snapshot_dtype)  # both complain before a file is made
        filters(compression)
        self.header = header
        self._flush_every_s = flush_every_s
        self._encoding, self._compression = snapshot_dtype, compression
        self._storage = Storage(Path(path), header, mode)
        self.path = self._storage.path
        self._open = True
        self._flushed_at = self._since = time.monotonic()
        if mode == "append":  # what the file has already been written for
            self._since -= np.nan_to_num(wall_s([self._storage.file.attrs]))
        self._waiting_bytes = 0
        self._tables: dict[str, Table] = {}
        self._rounds = self._keep(layout.rounds_table(self._storage.file, header.K))

    def round(
        self,
        *,
        step_begin: int,
        step_end: int,
        lr: float,
        compute_s: Any,
        wait_s: Any,
        transfer_s: Any,
        payload_bytes: Any,
        wire_bytes: Any = float("nan"),
        local_steps: int | None = None,
    ) -> None:
        """Record one round. A per-worker value is ``[K]``, or one number that holds for all.

        Args:
            step_begin: Global step at which the round began.
            step_end: Global step after its last local step.
            lr: Learning rate at its first step.
            compute_s: Seconds of local steps, per worker.
            wait_s: Seconds waiting for the slowest worker, per worker.
            transfer_s: Seconds moving the exchanged numbers, per worker.
            payload_bytes: Bytes the algorithm asked to send, per worker.
            wire_bytes: Bytes put on the wire, per worker; NaN where the world cannot know.
            local_steps: H; by default `step_end - step_begin`.

        Raises:
            TrajectoryError: If a value is neither a number nor ``[K]``, or a due flush fails.
        """
        H = step_end - step_begin if local_steps is None else local_steps
        per_worker = (compute_s, wait_s, transfer_s, payload_bytes, wire_bytes)
        values = (self._per_worker(value) for value in per_worker)
        self._append(self._rounds, (step_begin, step_end, H, lr, *values))

    def series(
        self,
        name: str,
        step: int,
        value: Any,
        *,
        units: str = "1",
        dims: tuple[str, ...] | str = (),
        meaning: str = "",
        samples: int = 0,
    ) -> None:
        """Record a value of a series, whose first value fixes everything else about it.

        Args:
            name: For example ``eval/test/accuracy``.
            step: Global step after which the value was taken.
            value: A number, or an array of one shape for the whole series. Numbers are kept in
                float64, arrays of float32 in float32. What could not be measured is NaN.
            units: Unit, ``1`` for none.
            dims: A name for each axis of `value`, for example ``("worker",)``.
            meaning: One sentence for the reader of the file.
            samples: How many samples a value is the mean of, so that its statistical error can be
                known; 0 where that says nothing.

        Raises:
            TrajectoryError: If the name will not do, the shape changed, or a due flush fails.
        """
        array = np.array(value)  # a copy: the caller may change it later
        table = self._tables.get(f"/series/{name}")
        if table is None:
            said: dict[str, Any] = {"units": units, "meaning": meaning, "samples": samples}
            axes = (dims,) if isinstance(dims, str) else tuple(dims)
            check_series_name(name)
            table = layout.series_table(self._storage.file, name, array, dims=axes, **said)
            self._keep(table)
        _same_shapes(f"series {name!r}, step {step}", table, {"value": array.shape})
        self._append(table, (step, array))

    def snapshot(self, step: int, mean: Any, workers: Any | None = None) -> None:
        """Record parameters, copied into `snapshot_dtype` at once.

        Args:
            step: Global step after which they were taken.
            mean: ``[P]``, the mean model.
            workers: ``[K, P]``, every worker's model; given always or never.

        Raises:
            TrajectoryError: If a shape differs from the header's, or a due flush fails.
        """
        given = {"mean": mean} if workers is None else {"mean": mean, "workers": workers}
        table = self._tables.get("/snapshots")
        if table is None:
            kind = (self._encoding, self._compression)
            table = layout.snapshots_table(
                self._storage.file, self.header, workers is not None, *kind
            )
        rows = {name: encode(x, self._encoding) for name, x in given.items()}
        _same_shapes(f"snapshot, step {step}", table, {name: x.shape for name, x in rows.items()})
        self._append(self._keep(table), (step, *rows.values()))

    def flush(self) -> None:
        """Write every waiting row to the file.

        Raises:
            NotWritten: It fails. Nothing is lost: what was flushed before stays readable, the rows
                wait in memory, and the next flush tries again.
            RecordGone: The file is not there any more.
        """
        self._store({})

    def close(self, status: str = "complete") -> None:
        """Flush, write how the run ended, and close. Closing a closed writer does nothing.

        Args:
            status: ``complete``, ``stopped`` or ``diverged``.

        Raises:
            TrajectoryError: If the last rows cannot be written; the writer stays open to try again.
        """
        if status not in STATUSES:
            raise TrajectoryError(
                f"status {status!r} is unknown; write one of {', '.join(STATUSES)}."
            )
        if self._open:
            self._store({"status": status, "closed": utc_now()})
            self._storage.close()
            self._open = False

    def __enter__(self) -> Writer:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close as ``complete``, or as ``stopped`` when `error` passes through."""
        del kind, trace
        try:
            self.close("complete" if error is None else "stopped")
        except TrajectoryError as failed:
            if error is None:
                raise
            # The first error is the one to read: this one must not take its place.
            warnings.warn(str(failed), RuntimeWarning, stacklevel=2)

    def _keep(self, table: Table) -> Table:
        return self._tables.setdefault(table.path, table)

    def _per_worker(self, value: Any) -> np.ndarray:
        K = self.header.K
        array = np.array(value, dtype=np.float64)
        if array.shape not in ((), (K,)):
            raise TrajectoryError(
                f"a round's value has shape {array.shape}: give a number or [{K}]."
            )
        return array if array.ndim else np.full(K, array)

    def _append(self, table: Table, row: tuple[Any, ...]) -> None:
        if not self._open:
            raise TrajectoryError(f"{self.path}: closed, so nothing more can be recorded.")
        table.append(row)
        self._waiting_bytes += table.row_bytes
        due = time.monotonic() - self._flushed_at >= self._flush_every_s
        if due or self._waiting_bytes >= _BUFFER_BYTES:
            self._store({})

    def _store(self, attrs: dict[str, str]) -> None:
        # Both counters start again even when this fails: one message an interval, not one a row.
        self._flushed_at, self._waiting_bytes = time.monotonic(), 0
        if not self._open:
            raise TrajectoryError(f"{self.path}: closed, so nothing can be flushed.")
        tables = [table for table in self._tables.values() if len(table)]
        if not (tables or attrs):
            return
        try:
            took_s = self._flushed_at - self._since
            self._storage.write(tables, {**attrs, ATTRIBUTE: took_s})
        except RecordGone:
            raise
        except FAILURES as error:
            waiting = sum(len(table) * table.row_bytes for table in tables)
            raise NotWritten(
                f"{self.path}: could not be written: {diskspace.why(error)}. What was flushed"
                f" before is kept; {human_bytes(waiting)} wait in memory."
                f" {diskspace.mend(error).capitalize()}."
            ) from error
        for table in tables:
            table.commit()


def _same_shapes(what: str, table: Table, given: dict[str, tuple[int, ...]]) -> None:
    want = {name: spec.row for name, spec in table.datasets.items() if name != "step"}
    if given != want:
        raise TrajectoryError(f"{what}: has shapes {given}, but the file's rows are {want}.")
