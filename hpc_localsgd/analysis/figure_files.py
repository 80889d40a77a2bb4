"""Figures in the house style, and as files: the same wherever one is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.figure_data import write_data
from hpc_localsgd.trajectory.whole_file import put_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METADATA: dict[str, Any] = {
    "png": {"Software": style.MADE_BY},
    "pdf": {"Creator": style.MADE_BY, "CreationDate": None},
    "svg": {"Creator": style.MADE_BY, "Date": None},
}


@contextmanager
def house_style(name: str = "") -> Iterator[Any]:
    """Draw in the style of the house; the caller's matplotlib is left as it was.

    Args:
        name: Of the figure: its SVG is the same every time. Text in it is text.

    Yields:
        Matplotlib's parameters.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        parameters: Any = matplotlib.rcParams  # its type lists every key there is
        parameters.update({**style.RC, "svg.hashsalt": name, "svg.fonttype": "none"})
        yield parameters


def save(figure: Figure, path: Path) -> None:
    """Write a figure, or its numbers, in the format that the name ends in.

    Args:
        figure: The figure, complete.
        path: Of the file.

    Raises:
        OSError: It cannot be written.
    """
    with put_whole(path) as unborn:
        if path.suffix == ".csv":
            write_data(figure, unborn)
        else:
            kind = path.suffix[1:]
            figure.savefig(unborn, format=kind, metadata=_METADATA.get(kind))
