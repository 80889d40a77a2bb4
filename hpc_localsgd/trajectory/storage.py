"""A writer's HDF5 file: complete from the start, its space reserved, checked after a failure."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from hpc_localsgd.trajectory import diskspace
from hpc_localsgd.trajectory.header import Header
from hpc_localsgd.trajectory.new_groups import NewGroups
from hpc_localsgd.trajectory.opening import opened
from hpc_localsgd.trajectory.schema import SCHEMA_VERSION, RecordGone, TrajectoryError
from hpc_localsgd.trajectory.segments import next_segment, segment_paths, trajectory_file
from hpc_localsgd.trajectory.tables import Table
from hpc_localsgd.trajectory.whole_file import put_whole

Mode = Literal["new", "overwrite", "resume", "append"]

FAILURES = (OSError, RuntimeError, ValueError)
"""What h5py raises when a write fails, depending on the layer that noticed."""


class Storage:
    """One file that rows are written to.

    Args:
        path: The first file of the run, or the run folder.
        header: Attributes of a new file.
        mode: As in `writer.Writer`.

    Attributes:
        path: The file.
        file: The open file. It may be another object after a failed write.

    Raises:
        TrajectoryError: If the file may not be touched, is damaged, or cannot be made.
    """

    def __init__(self, path: Path, header: Header, mode: Mode) -> None:
        """Open the file; see the class."""
        self.path = _place(path, mode)
        self._tainted = False
        try:
            if mode == "append":
                self._check(header)
            else:
                self._create(header, mode)
            self.file = diskspace.open_to_write(self.path, "r+")
        except TrajectoryError:
            raise
        except FAILURES as error:
            raise TrajectoryError(
                f"{self.path}: cannot be opened for writing: {diskspace.why(error)}."
            ) from error
        self._is = self.path.stat()
        if mode == "append":
            self.write([], {"status": "running", "closed": ""})

    def write(self, tables: Sequence[Table], attrs: Mapping[str, str | float]) -> None:
        """Write the waiting rows of `tables`, then `attrs`, then flush; may be repeated.

        Args:
            tables: Tables with rows to write; the caller commits them when this returns.
            attrs: Root attributes to set.

        Raises:
            RecordGone: The file is not there any more, or is another one.
            OSError: Or another of `FAILURES`, when it did not work.
        """
        self._check_there()
        if self._tainted:
            self._reopen()
        diskspace.reserve(self.file, sum(table.needed_bytes() for table in tables))
        self._tainted = True
        try:
            groups = NewGroups(self.file)
            kept = [table.write(groups) for table in tables]
            groups.link()
            for name, value in attrs.items():
                self.file.attrs[name] = value
            diskspace.flush(self.file)
            del kept
        except BaseException:  # HDF5 cuts off what was reserved when it closes the file
            with contextlib.suppress(*FAILURES):
                diskspace.say_end(self.file, self._is.st_size)
            raise
        diskspace.give_back(self.file)
        self._tainted = False
        self._is = self.path.stat()

    def close(self) -> None:
        """Close the file, which holds nothing unwritten: what fails now costs nothing."""
        with contextlib.suppress(*FAILURES):
            self.file.close()

    def _create(self, header: Header, mode: Mode) -> None:
        # Under another name until the header is on the disk: a job killed here leaves no half-born
        # file that the next one would have to explain.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with put_whole(self.path) as unborn:
            with diskspace.open_to_write(unborn, "w") as file:
                file.attrs.update(header.attrs())
            if mode == "overwrite":
                for old in segment_paths(self.path)[1:]:
                    old.unlink()

    def _check(self, header: Header) -> None:
        with opened(self.path) as file:
            K, P = int(file.attrs["K"]), int(file.attrs["P"])
            version = int(file.attrs["schema_version"])
        if version != SCHEMA_VERSION:
            raise TrajectoryError(
                f"{self.path} has schema version {version}, and names mean other things in "
                f"version {SCHEMA_VERSION}: continue in a file of its own with "
                'mode="resume", or replace it.'
            )
        if (K, P) != (header.K, header.P):
            raise TrajectoryError(
                f"{self.path} was written with K={K}, P={P}; this run has"
                f' K={header.K}, P={header.P}. Continue in a file of its own with mode="resume".'
            )

    def _check_there(self) -> None:
        # HDF5 would keep writing to an unlinked file, silently. And our file only grows.
        try:
            now = self.path.stat()
        except FileNotFoundError as error:
            raise RecordGone(f"{self.path} is gone: it was removed, moved or unmounted") from error
        if not os.path.samestat(now, self._is):
            raise RecordGone(f"{self.path} is gone: another file is in its place")
        if now.st_size < self._is.st_size and not self._tainted:  # a failed write may shrink it
            raise RecordGone(f"{self.path} was cut short by another program: it cannot be read")

    def _reopen(self) -> None:
        # HDF5's caches are not to be believed after a failed write: start again from the disk.
        with contextlib.suppress(*FAILURES):
            self.file.close()
        self.file = diskspace.open_to_write(self.path, "r+")
        self._is = self.path.stat()


def _place(path: Path, mode: Mode) -> Path:
    """Return the file that `mode` means, if it may be written."""
    if mode not in get_args(Mode):
        raise TrajectoryError(
            f"mode {mode!r} is unknown; write one of {', '.join(get_args(Mode))}."
        )
    if mode == "resume":
        return next_segment(path)
    base = trajectory_file(path)
    if mode == "append" and not base.exists():
        raise TrajectoryError(f'{base}: nothing to append to. Use mode="new".')
    if mode == "new" and next_segment(base) != base:
        raise TrajectoryError(
            f"{base}: a run is already there and was not touched."
            ' Choose another folder, resume it (mode="resume"), or replace it (mode="overwrite").'
        )
    return base
