"""The numbers behind a figure: kept while it is drawn, written as a CSV file beside it.

All of them, also where a curve shows fewer points than there are, in the units of the record:
seconds and bytes, whatever unit the axis has.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from hpc_localsgd.analysis.panel_names import PanelNames, names_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADER = ("panel", "line", "x_name", "x", "y_name", "y", "low", "high")


@dataclass(frozen=True)
class Drawn:
    """One line, set of dots or row of bars in a panel; all of the same length.

    Attributes:
        line: What it is.
        x: Where on the abscissa.
        y: Its values.
        low: Lower end of its bar or band; None where it has none.
        high: Upper end.
        names: Of x and y, where they are not what the axes are of, as in a row of bars.
    """

    line: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    names: tuple[str, str] | None = None


_KEPT: WeakKeyDictionary[Axes, list[Drawn]] = WeakKeyDictionary()


def keep(
    axes: Axes,
    line: str,
    x: Any,
    y: Any,
    low: Any = None,
    high: Any = None,
    names: tuple[str, str] | None = None,
) -> None:
    """Keep what is drawn in a panel, for the file of the figure.

    Args:
        axes: The panel.
        line: What is drawn.
        x: ``[n]``.
        y: ``[n]``.
        low: ``[n]`` lower ends of bars or of a band, if there are any.
        high: ``[n]`` upper ends.
        names: Of x and y, where they are not what the axes are of.
    """
    lower, upper = (None if end is None else np.atleast_1d(end) for end in (low, high))
    drawn = Drawn(line, np.atleast_1d(x), np.atleast_1d(y), lower, upper, names)
    _KEPT.setdefault(axes, []).append(drawn)


def kept(axes: Axes) -> Sequence[Drawn]:
    """Return what was kept of a panel, in the order of drawing."""
    return tuple(_KEPT.get(axes, ()))


def write_data(figure: Figure, path: Path) -> None:
    """Write what is drawn in a figure, a row a value.

    Args:
        figure: The figure, complete.
        path: Of the CSV file.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(HEADER)
        for axes in figure.axes:
            names = names_of(figure, axes)
            for drawn in kept(axes):
                writer.writerows(_rows(names, drawn))


def _rows(names: PanelNames, drawn: Drawn) -> list[list[str]]:
    none = np.full(len(drawn.x), math.nan)
    ends = [none if end is None else end for end in (drawn.low, drawn.high)]
    of_x, of_y = drawn.names or (names.x, names.y)
    return [
        [names.panel, drawn.line, of_x, _number(x), of_y, _number(y), _number(a), _number(b)]
        for x, y, a, b in zip(drawn.x, drawn.y, *ends, strict=True)
    ]


def _number(value: Any) -> str:
    """Format a number so that reading it gives the same one; nothing where there is none."""
    number = value.item() if hasattr(value, "item") else value
    return "" if isinstance(number, float) and math.isnan(number) else str(number)
