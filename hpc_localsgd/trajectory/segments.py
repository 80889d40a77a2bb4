"""A run that was resumed is several files: ``trajectory.h5``, ``trajectory-0001.h5``, ...

A requeued job never touches the file of the job before it, so nothing that job wrote can be harmed.
Each segment says in ``t0`` at which global step it begins; the reader puts them together and drops
what an earlier segment recorded after that step, because the resumed job did those steps again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpc_localsgd.trajectory.opening import opened
from hpc_localsgd.trajectory.schema import TrajectoryError
from hpc_localsgd.trajectory.tables import complete_rows

FILE_NAME = "trajectory.h5"
_FOREVER = int(np.iinfo(np.int64).max)


def trajectory_file(path: str | Path) -> Path:
    """Return the file a user means: `path` itself, or the ``trajectory.h5`` of a run folder.

    Args:
        path: A file, known by its suffix ``.h5`` when it does not exist yet, or a run folder.
    """
    path = Path(path)
    is_file = path.is_file() or (path.suffix in (".h5", ".hdf5") and not path.is_dir())
    return path if is_file else path / FILE_NAME


def read_paths(path: str | Path, segments: bool) -> list[Path]:
    """Return the files of a run to read, in order: the first one even where it is missing.

    Args:
        path: The first file, or the run folder.
        segments: Whether later segments count.

    Raises:
        TrajectoryError: One may not look there, a file server is away, or a segment is missing.
    """
    try:
        base = trajectory_file(path)
        return segment_paths(base) if segments and os.path.exists(base) else [base]
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot be read: {error.strerror}") from error


def segment_paths(path: str | Path) -> list[Path]:
    """Return existing segments of a run in order, the first file included.

    Args:
        path: The first file (``trajectory.h5``), or the run folder.

    Raises:
        TrajectoryError: If a segment between two others is missing.
    """
    base = trajectory_file(path)
    numbered = _numbered(base)
    present = range(1, len(numbered) + 1)  # not up to the last: a name may hold any number
    missing = [_name(base, i) for i in present if i not in numbered]
    if missing and base.exists():
        raise TrajectoryError(
            f"{base.parent}: the segment {missing[0].name} of this run is missing, but later ones"
            " exist. Put it back, or open the others one by one with"
            f' Trajectory("{numbered[max(numbered)]}").'
        )
    later = [numbered[i] for i in sorted(numbered)]
    return [base, *later] if base.exists() else later


def next_segment(path: str | Path) -> Path:
    """Return the file a resumed run should write: the first name after every existing segment.

    Args:
        path: The first file (``trajectory.h5``), or the run folder.
    """
    base = trajectory_file(path)
    numbered = _numbered(base)
    if not numbered and not base.exists():
        return base
    return _name(base, max(numbered, default=0) + 1)


def joined_rows(
    files: Sequence[tuple[Path, int, str]],
    clock: str,
    names: Sequence[str],
    whole: Sequence[str] = (),
) -> list[dict[str, np.ndarray]]:
    """Return columns of a table, segment by segment, without rows that a later one repeats.

    Args:
        files: Of each segment the file, the global step it begins at, and the path of the table in
            it, empty where it has none.
        clock: Its column of global steps.
        names: Columns to read.
        whole: Columns that must have a row for it to count, `names` by default.
    """
    parts, limit = [], _FOREVER
    for path, t0, table in reversed(files):
        with opened(path) as file:
            rows = complete_rows(file[table], whole or names) if table in file else 0
            if rows:
                columns = {name: file[table][name][:rows] for name in names}
                kept = columns[clock] <= limit
                parts.append({name: x[kept] for name, x in columns.items()})
                # A resumed job may measure the step it begins at once more: the later one counts.
                limit = min(limit, int(columns[clock][0]) - 1)
        limit = min(limit, t0)
    return parts[::-1]


def _name(base: Path, index: int) -> Path:
    return base.with_name(f"{base.stem}-{index:04d}{base.suffix}")


def _numbered(base: Path) -> dict[int, Path]:
    pattern = re.compile(re.escape(base.stem) + r"-(\d{4,})" + re.escape(base.suffix))
    if not base.parent.is_dir():
        return {}
    found = ((pattern.fullmatch(file.name), file) for file in base.parent.iterdir())
    return {int(match.group(1)): file for match, file in found if match}
