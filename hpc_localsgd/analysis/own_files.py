"""Pages, figures and traces bear a mark: one without it is another program's, and is left alone.

Tables are told by their heads: a mark in them would be in the way of who reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EEXIST
from pathlib import Path

from hpc_localsgd.analysis.figure_data import HEADER
from hpc_localsgd.analysis.style import MADE_BY
from hpc_localsgd.trajectory.segments import trajectory_file
from hpc_localsgd.trajectory.whole_file import put_whole

REPORT = "report"  # the folder of a run's report, in that of the run
DRAWN = (".html", ".png", ".pdf", ".svg")


def is_ours(file: Path) -> bool:
    """Return whether a file bears the mark of a figure or page, or the heads of its numbers."""
    if not file.is_file():
        return False
    if file.suffix == ".csv":
        with file.open("rb") as data:
            return data.readline(200) == f"{','.join(HEADER)}\n".encode()
    if file.suffix == ".json":
        with file.open("rb") as data:
            return MADE_BY.encode() in data.read(2000)
    return file.suffix in DRAWN and MADE_BY.encode() in file.read_bytes()


def is_foreign(path: Path, ours: Callable[[Path], bool] = is_ours) -> bool:
    """Return whether there is something at a place that is not ours; an empty file is nothing.

    Args:
        path: Of a file or folder.
        ours: Tells of what is there whether it is.
    """
    empty = path.is_file() and not path.stat().st_size
    return path.exists() and not empty and not ours(path)


def check_ours(path: Path, ours: Callable[[Path], bool] = is_ours) -> None:
    """Check that a file may be written: none is there, or one of ours, or an empty one.

    What lies in the folder of a run's report is ours: version 0.1 wrote no marks.

    Args:
        path: Of the file.
        ours: Tells of what is there whether it is.

    Raises:
        FileExistsError: What is there is another program's.
    """
    if path.parent.name == REPORT and trajectory_file(path.parents[1]).exists():
        return
    if is_foreign(path, ours):
        raise FileExistsError(EEXIST, "what is there is not of this package", str(path))


@contextmanager
def put_ours(path: Path, ours: Callable[[Path], bool] = is_ours) -> Iterator[Path]:
    """Write a file whole, in the place of one of ours or of none; see `put_whole`.

    Args:
        path: Of the file.
        ours: Tells of what is there whether it is.

    Yields:
        The name to write to.

    Raises:
        FileExistsError: What is there is another program's.
    """
    check_ours(path, ours)
    with put_whole(path) as unborn:
        yield unborn


def put_table(path: Path, text: str, head: str) -> None:
    """Write a table whole, in the place of one with the same head or of none.

    Args:
        path: Of the file.
        text: The table.
        head: What is in every such table.

    Raises:
        FileExistsError: What is there is another program's.
    """
    with put_ours(path, lambda file: file.is_file() and head.encode() in file.read_bytes()) as new:
        new.write_text(text, encoding="utf-8")
