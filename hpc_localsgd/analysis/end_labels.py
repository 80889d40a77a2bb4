"""The name of each line at its right end, moved apart where two would touch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

LINE_IN = 0.155  # height of a line of text
_LOOK: dict[str, Any] = {
    "xycoords": "axes fraction",
    "xytext": (7, 0),
    "textcoords": "offset points",
    "va": "center",
    "linespacing": 1.25,
    "annotation_clip": False,
}

# The labels of a panel and where each would stand if it were alone.
_WRITTEN: WeakKeyDictionary[Axes, list[tuple[float, Annotation]]] = WeakKeyDictionary()


def end_labels(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write the name of each line at its right end, moved apart where they would touch.

    Args:
        axes: Axes whose limits are final.
        labels: (last value, text, colour) of each line.
    """
    for y, text, colour in labels:
        label = axes.annotate(text, (1, 0), **_LOOK, color=colour)
        _WRITTEN.setdefault(axes, []).append((_fraction(axes, y), label))
    move_apart(axes)


def move_apart(axes: Axes) -> None:
    """Place the labels of a panel again, as for its height now.

    Args:
        axes: The panel.
    """
    height_in = axes.bbox.height / axes.figure.dpi
    wanted = sorted(_WRITTEN.get(axes, []), key=lambda placed: placed[0])
    heights = [LINE_IN * (1 + label.get_text().count("\n")) / height_in for _, label in wanted]
    centres = _apart([at for at, _ in wanted], heights)
    for centre, (_, label) in zip(centres, wanted, strict=True):
        label.xy = (1, centre)


def borrow_labels(axes: Axes, beside: Sequence[Axes]) -> None:
    """Name the lines of a panel as one beside it does, which has the same lines.

    Args:
        axes: A panel without labels of its own; others are left alone.
        beside: Panels of the same ordinate.
    """
    if axes in _WRITTEN:
        return
    theirs = next((_WRITTEN[other] for other in beside if other in _WRITTEN), [])
    for at, label in theirs:
        copy = axes.annotate(label.get_text(), (1, at), **_LOOK, color=label.get_color())
        _WRITTEN.setdefault(axes, []).append((at, copy))


def is_end_label(axes: Axes, text: object) -> bool:
    """Return whether a text of a panel names one of its lines."""
    return any(text is label for _, label in _WRITTEN.get(axes, []))


def _fraction(axes: Axes, y: float) -> float:
    at = axes.transData.transform((0, y))[1]
    return float(np.clip(axes.transAxes.inverted().transform((0, at))[1], 0, 1))


def _apart(centres: list[float], heights: list[float]) -> list[float]:
    """Push sorted `centres` up until labels do not overlap, then back below the top."""
    placed = list(centres)
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + (heights[i] + heights[i - 1]) / 2)
    for i in range(len(placed) - 1, -1, -1):
        above = 1.05 if i == len(placed) - 1 else placed[i + 1] - heights[i + 1] / 2
        placed[i] = min(placed[i], above - heights[i] / 2)
    return placed
