"""Where the results go: a file of their own, `sharpness.h5`, in the form of a trajectory.

Not into trajectory.h5: that file may still be written by the run, a job killed here must not cost
a run, and a new segment would tell the reader that the run was resumed and drop the rows after it.
The file has the tree, the writer and the reader of a trajectory, so it survives a kill, grows
snapshot by snapshot, and opens with `Trajectory("runs/a/sharpness.h5")`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpc_localsgd.commands.sharpness.values import Value
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import (
    SCHEMA_VERSION,
    Header,
    Trajectory,
    TrajectoryError,
    Writer,
)
from hpc_localsgd.trajectory.diskspace import to_continue, why
from hpc_localsgd.trajectory.records import padded
from hpc_localsgd.trajectory.safe_text import load_yaml
from hpc_localsgd.trajectory.schema import NotWritten
from hpc_localsgd.trajectory.storage import Mode

FOREVER_S = 1e9  # rows are flushed when a snapshot has all of them, not by the clock


class SharpnessFile:
    """The file of results; use it as a context manager.

    Attributes:
        path: The file.
        done: Steps it has every series of.
    """

    def __init__(
        self, path: Path, header: Header, overwrite: bool = False, workers: int = 0
    ) -> None:
        """Look at an existing file; write nothing before there is a result.

        Args:
            path: The file.
            header: What it begins with.
            overwrite: Whether to start over.
            workers: Of the run, where it had most; values of fewer workers are padded with NaN.

        Raises:
            ConfigurationError: It was computed with other settings or from another run, or cannot
                be read or written.
        """
        self.path, self._header, self._workers = path, header, workers
        self._mode: Mode = "overwrite" if overwrite else "append" if path.exists() else "new"
        self._writer: Writer | None = None
        if path.parent.exists() and not os.access(path.parent, os.W_OK):
            raise ConfigurationError(f"cannot write to {path.parent}: give --out another file")
        try:
            self.done = _done(path, header) if self._mode == "append" else set()
        except TrajectoryError as error:
            raise ConfigurationError(str(error)) from error

    def add(self, step: int, values: Sequence[Value]) -> None:
        """Write all results of one snapshot, and flush to disk.

        Raises:
            ConfigurationError: The file cannot be written; what it held before is kept.
        """
        try:
            writer = self._opened()
            for v in values:
                name = f"sharpness/{v.name}"
                value = padded(np.asarray(v.value), v.dims, self._workers)
                writer.series(name, step, value, units=v.units, dims=v.dims, meaning=v.meaning)
            writer.flush()
        except NotWritten as error:
            raise ConfigurationError(
                f"cannot write {self.path}: {why(error.__cause__)}. The snapshots before are in "
                f"it: {to_continue(error.__cause__)}"
            ) from error
        except TrajectoryError as error:
            raise ConfigurationError(str(error)) from error
        self.done.add(step)

    def _opened(self) -> Writer:
        if self._writer is None:
            self._writer = Writer(self.path, self._header, mode=self._mode, flush_every_s=FOREVER_S)
        return self._writer

    def __enter__(self) -> SharpnessFile:
        """Return the store."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Close the file; sort its steps if an earlier one was added later."""
        if self._writer is not None:
            with warnings.catch_warnings():
                if error[0] is ConfigurationError:  # that it cannot be written is said with that
                    warnings.simplefilter("ignore", RuntimeWarning)
                self._writer.__exit__(*error)
            if error[0] is None:
                put_in_order(self.path)


def _done(path: Path, header: Header) -> set[int]:
    """Return the steps that every series of the file has.

    Raises:
        ConfigurationError: The file is of other settings.
    """
    before = Trajectory(path, segments=False)
    if (version := int(before.attrs["schema_version"])) != SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path} was written with schema version {version}, and this writes {SCHEMA_VERSION}: "
            "give --out another file, or --overwrite to replace it"
        )
    if before.config_text != header.config:
        changed = _changed(before.config, header.config)
        raise ConfigurationError(
            f"{path} holds results of another run or of other settings ({changed}): give --out "
            "another file, or --overwrite to replace it"
        )
    steps = [set(before.series(name).step.tolist()) for name in before.names()]
    return set.intersection(*steps) if steps else set()


def _changed(before: dict[str, Any], text: str) -> str:
    """Return the names of the settings that differ, or say that the run does."""
    now = load_yaml(text)
    ours, theirs = now.pop("sharpness", {}), dict(before).pop("sharpness", {})
    names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
    if "run_created" in names or {k: v for k, v in before.items() if k != "sharpness"} != now:
        return "the run was trained again"
    return ", ".join("--" + name.replace("_", "-") for name in names)


def put_in_order(path: Path) -> None:
    """Sort every series by step, keeping the latest value, in a new file that replaces the old."""
    found = Trajectory(path, segments=False)
    series = [found.series(name) for name in found.names()]
    if all((np.diff(s.step) > 0).all() for s in series):
        return
    fields = Header.__dataclass_fields__
    header = Header(**{name: found.attrs[name] for name in fields if name in found.attrs})
    unborn = path.with_name(f".{path.stem}.{os.getpid()}.h5")
    try:
        with Writer(unborn, header, mode="overwrite", flush_every_s=FOREVER_S) as writer:
            for s in series:
                latest = {int(step): i for i, step in enumerate(s.step)}
                for step in sorted(latest):
                    value = s.value[latest[step]]
                    writer.series(
                        s.name, step, value, units=s.units, dims=s.dims, meaning=s.meaning
                    )
        os.replace(unborn, path)
    finally:
        unborn.unlink(missing_ok=True)
