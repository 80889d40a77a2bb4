"""Reads a run back: its segments put together, everything as NumPy arrays, nothing kept open."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.trajectory.contents import attrs_of, series_in, snapshot_at
from hpc_localsgd.trajectory.estimate import human_bytes
from hpc_localsgd.trajectory.moved_classes import where_now
from hpc_localsgd.trajectory.older_schema import name_in_file, name_today
from hpc_localsgd.trajectory.opening import opened
from hpc_localsgd.trajectory.records import Rounds, Series, Snapshot, Totals, padded
from hpc_localsgd.trajectory.safe_text import load_yaml
from hpc_localsgd.trajectory.schema import ROUND_COLUMNS, TrajectoryError
from hpc_localsgd.trajectory.segments import joined_rows, read_paths
from hpc_localsgd.trajectory.tables import complete_rows
from hpc_localsgd.trajectory.wall_clock import whole_run

if TYPE_CHECKING:
    from xarray import Dataset

_COLUMNS = [column.name for column in ROUND_COLUMNS]


class Trajectory:
    """The record of a run, finished or not.

    What is read is kept, so a run in progress is looked at afresh with a new `Trajectory`.

    Args:
        path: A ``trajectory.h5``, or the run folder that holds it.
        segments: Whether to add the files of a resumed run (``trajectory-0001.h5``, ...). Rows that
            an earlier segment recorded after the step a later one begins at are dropped.

    Attributes:
        path: The first file.
        paths: All files that are read, in order.

    Raises:
        TrajectoryError: If a file is missing, damaged, or of another schema.

    Example:
        >>> run = Trajectory("runs/a")                                      # doctest: +SKIP
        >>> run.rounds.local_steps.max(), run.series("spread").value[-1]    # doctest: +SKIP
    """

    def __init__(self, path: str | Path, *, segments: bool = True) -> None:
        """Open the record; see the class."""
        self.paths = read_paths(path, segments)
        self.path = self.paths[0]
        self._attrs = [attrs_of(segment) for segment in self.paths]

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the run: of its last segment, but for `created`, `t0` and `wall_s`."""
        return whole_run(self._attrs)

    @property
    def K(self) -> int:
        """Workers of the run."""
        return int(self._attrs[-1]["K"])

    @property
    def workers(self) -> list[int]:
        """Workers of each segment: a resumed run may have had another number."""
        return [int(attrs["K"]) for attrs in self._attrs]

    @property
    def most_workers(self) -> int:
        """Workers of the segment that has most."""
        return max(self.workers)

    @property
    def P(self) -> int:
        """Parameters of the model."""
        return int(self._attrs[-1]["P"])

    @property
    def status(self) -> str:
        """``running`` (also of a killed run), ``complete``, ``stopped`` or ``diverged``."""
        return str(self._attrs[-1]["status"])

    @property
    def config_text(self) -> str:
        """The whole resolved configuration, YAML; classes are named where they are today."""
        return where_now(str(self._attrs[-1]["config"]))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration as a dictionary.

        Raises:
            TrajectoryError: If PyYAML is missing or the text is not YAML; `config_text` has the
                text.
        """
        try:
            import yaml
        except ImportError as error:
            raise TrajectoryError(
                "reading the configuration as a dictionary needs PyYAML: pip install pyyaml."
                " The text itself is in config_text."
            ) from error
        try:
            parsed = load_yaml(self.config_text) or {}
        except yaml.YAMLError as error:
            raise TrajectoryError(
                f"{self.paths[-1]}: its configuration is not YAML: {error}. config_text has it."
            ) from error
        return parsed if isinstance(parsed, dict) else {"config": parsed}

    @cached_property
    def rounds(self) -> Rounds:
        """The table of rounds. Workers that a segment did not have are NaN."""
        parts = self._joined(["rounds"] * len(self.paths), "step_end", _COLUMNS)
        wide = self.most_workers
        columns = {}
        for column in ROUND_COLUMNS:
            dims = ("round", "worker") if column.per_worker else ("round",)
            empty = np.empty((0, wide) if column.per_worker else (0,), column.dtype)
            found = [padded(part[column.name], dims, wide) for part in parts]
            columns[column.name] = np.concatenate([empty, *found])
        return Rounds(**columns)

    @cached_property
    def totals(self) -> Totals:
        """Rounds, steps, bytes and seconds of the whole run."""
        return Totals.of(self.rounds)

    def names(self) -> list[str]:
        """Return names of the series, sorted."""
        return sorted(self._series_names)

    def about(self, name: str) -> dict[str, str]:
        """Return what the file says of a series, without reading its values.

        Args:
            name: Of the series.

        Returns:
            `units`, `dims` (names with blanks between them), `meaning` and `samples` ("0" if not
            known).

        Raises:
            TrajectoryError: If there is no such series.
        """
        if name not in self._series_names:
            raise TrajectoryError(self._unknown(name))
        return dict(self._series_names[name])

    def series(self, name: str) -> Series:
        """Return a series by name.

        Args:
            name: For example ``eval/test/accuracy``; `names` lists them.

        Returns:
            The series. Workers that a segment did not have are NaN.

        Raises:
            TrajectoryError: If there is no such series.
        """
        if name not in self._series_names:
            raise TrajectoryError(self._unknown(name))
        parts = self._each_series(name, ["step", "value"])
        said = self._series_names[name]
        dims = tuple(said["dims"].split())
        if not parts:
            parts = [{"step": np.empty(0, np.int64), "value": np.empty(0)}]
        step = np.concatenate([part["step"] for part in parts])
        value = self._one_above_another(name, [part["value"] for part in parts], dims)
        samples = int(said["samples"])
        return Series(step, value, said["units"], dims, said["meaning"], name, samples)

    @cached_property
    def snapshot_steps(self) -> np.ndarray:
        """``[m]`` global steps of which parameters are kept."""
        kept = self._joined(["snapshots"] * len(self.paths), "step", ["step"], ["step", "mean"])
        return np.concatenate([np.empty(0, np.int64), *(part["step"] for part in kept)])

    def snapshot(self, step: int | None = None, *, workers: bool = False) -> Snapshot:
        """Read the parameters of one step, and no others.

        Args:
            step: One of `snapshot_steps`; by default the last.
            workers: Whether to read every worker's parameters too, K times as much.

        Raises:
            TrajectoryError: If there is none at that step, or workers were not recorded.
        """
        steps = self.snapshot_steps
        if step is None and len(steps):
            step = int(steps[-1])
        if step is None or step not in steps:
            some = ", ".join(str(s) for s in steps[:8]) or "none"
            more = f", ... {steps[-1]}" if len(steps) > 8 else ""
            raise TrajectoryError(
                f"{self.path}: no snapshot at step {step}; there are: {some}{more}."
            )
        for path in reversed(self.paths):  # where two segments have a step, the later one counts
            with opened(path) as file:
                if "snapshots" in file:
                    group = file["snapshots"]
                    rows = complete_rows(group, ["step", "mean"])
                    at = np.flatnonzero(group["step"][:rows] == step)
                    if len(at):
                        return snapshot_at(group, int(at[-1]), workers, path)
        raise TrajectoryError(
            f"{self.path}: the snapshot of step {step} has gone; open the run again."
        )

    def to_xarray(self) -> Dataset:
        """Return the whole record but the parameters, as one `xarray.Dataset`.

        Rounds are variables ``rounds/lr`` ... over ``round`` (and ``worker``). A series ``spread``
        is the variable ``spread`` over its own steps, the coordinate ``spread/step``, and over its
        own axes, ``<name>/<dim>`` unless they are workers. Units and meanings are attributes of the
        variables, facts of the run those of the whole. Series over all parameters are left out, as
        are snapshots: `series` and `snapshot` read them one by one.

        Raises:
            TrajectoryError: If xarray is missing.
        """
        from hpc_localsgd.trajectory.xarray_dataset import dataset

        names = (n for n in self.names() if "parameter" not in self.about(n)["dims"].split())
        attrs = {**self.attrs, "config": self.config_text}
        return dataset(self.rounds, map(self.series, names), self.most_workers, attrs)

    def __repr__(self) -> str:
        """Summarise in a few lines what ran, how it ended and what is recorded."""
        a, sums, snapshots = self.attrs, self.totals, len(self.snapshot_steps)
        seconds = f"computing {sums.compute_s:.4g}, waiting {sums.wait_s:.4g}"
        sent = human_bytes(sums.payload_bytes)
        parts = [f"{name} [{self._length(name)}]" for name in self.names()]
        lines = [
            f'Trajectory("{self.path}")  {self.status}',
            f"  {a['task']} | {a['algorithm']} | {a['schedule']} | {a['world']}",
            f"  K = {self.K} workers, P = {self.P:,} parameters, seed {a['seed']}",
            f"  {self.rounds!r}, {sent} sent per worker",
            f"  seconds: {seconds}, transferring {sums.transfer_s:.4g} ({a['clock']})",
            f"  series: {', '.join(parts) or 'none yet'}",
        ]
        lines += [f"  snapshots: {snapshots}"] if snapshots else []
        lines += [f"  segments: {len(self.paths)}"] if len(self.paths) > 1 else []
        return "\n".join(lines)

    @cached_property
    def _series_names(self) -> dict[str, dict[str, str]]:
        """Name of each series -> its attributes, the first segment's where several have it."""
        found: dict[str, dict[str, str]] = {}
        for path, attrs in zip(self.paths, self._attrs, strict=True):
            with opened(path) as file:
                for name, said in series_in(file).items():
                    found.setdefault(name_today(name, attrs), said)
        return found

    def _each_series(self, name: str, columns: list[str]) -> list[dict[str, np.ndarray]]:
        """Return columns of a series, which an older segment may have by another name."""
        groups = [name_in_file(name, attrs) for attrs in self._attrs]
        return self._joined([f"series/{g}" if g else "" for g in groups], "step", columns)

    def _joined(
        self, tables: Sequence[str], clock: str, names: Sequence[str], whole: Sequence[str] = ()
    ) -> list[dict[str, np.ndarray]]:
        """Return columns of a table, by its path in each segment, see `joined_rows`."""
        begins = [int(attrs.get("t0", 0)) for attrs in self._attrs]
        files = list(zip(self.paths, begins, tables, strict=True))
        return joined_rows(files, clock, names, whole)

    def _length(self, name: str) -> int:
        return sum(len(part["step"]) for part in self._each_series(name, ["step"]))

    def _one_above_another(
        self, name: str, values: list[np.ndarray], dims: tuple[str, ...]
    ) -> np.ndarray:
        """Return the values of all segments, padded where only the number of workers differs."""
        if len({v.shape[1:] for v in values}) > 1:
            values = [padded(v, ("step", *dims), self.most_workers) for v in values]
        if len({v.shape[1:] for v in values}) > 1:
            raise TrajectoryError(
                f"{self.path}: segments of this run hold {name!r} in different shapes; read them"
                f' one by one with Trajectory("{self.paths[-1]}", segments=False).'
            )
        return np.concatenate(values)

    def _unknown(self, name: str) -> str:
        known = self.names()
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" - did you mean {close[0]!r}?" if close else "."
        return (
            f"{self.path}: no series {name!r}{hint} (there are: {', '.join(known) or 'none yet'})"
        )
