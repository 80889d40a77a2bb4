"""Accuracy against communication: every group a point with its deviations, the front a line.

The front is a staircase: between two points nothing was measured, and the cheaper one is the best
known for that cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.compare.groups import SeedGroup
from hpc_localsgd.analysis.compare.legend import look_of, sheet_of_panels
from hpc_localsgd.analysis.compare.measures import (
    ACCURACY,
    SENT,
    Measure,
    clocks,
    costs_of,
    front,
    summary,
    uncertainty,
    worth,
)
from hpc_localsgd.analysis.figure_data import keep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation


SIDES = ((6, 5), (6, -13), (-6, 5), (-6, -13))  # of a point, where its label may stand


def draw_front(groups: Sequence[SeedGroup]) -> Figure | None:
    """Draw two panels, bytes and seconds; return None if no group has an accuracy.

    Bytes alone where some seconds are measured and some modelled. A group has one symbol in both.

    Args:
        groups: At least one.
    """
    if not any(summary(g, ACCURACY).count for g in groups):
        return None
    facts = [f"{len(groups)} configurations", f"{sum(len(g.runs) for g in groups)} runs"]
    shown = costs_of(groups)
    title = "Accuracy against communication"
    figure, panels = sheet_of_panels(groups, len(shown), title, facts)
    for axes, cost in zip(panels, shown, strict=True):
        _draw_panel(axes, groups, cost)
    _scale_accuracy(panels[0], groups)
    for axes, cost in zip(panels, shown, strict=True):  # where the axes are is known now
        _name_points(axes, groups, *_points(groups, cost))
    panels[0].set_ylabel("test accuracy of the mean model")
    return figure


def _points(groups: Sequence[SeedGroup], cost: Measure) -> tuple[np.ndarray, np.ndarray]:
    """Return the cost and accuracy of each group, ``[n]`` each; NaN where unknown."""
    x = np.array([summary(g, cost).mean for g in groups])
    y = np.array([summary(g, ACCURACY).mean for g in groups])
    return x, y


def _draw_panel(axes: Axes, groups: Sequence[SeedGroup], cost: Measure) -> None:
    x, y = _points(groups, cost)
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        style.note(axes, f"{cost.name}: not recorded")
        return
    off = [uncertainty(g) for g in groups]
    best = front(x.tolist(), [worth(g) for g in groups], off)
    pale: dict[str, Any] = {"color": style.PALE, "linewidth": 4, "zorder": 1}
    height = np.maximum.accumulate(y[best])  # of equal costs the best is first
    axes.plot(x[best], height, drawstyle="steps-post", solid_joinstyle="round", **pale)
    for i in np.flatnonzero(known).tolist():
        bars: dict[str, Any] = {
            "xerr": _bar(summary(groups[i], cost).deviation),
            "yerr": _bar(off[i]),
        }
        look: dict[str, Any] = {"elinewidth": 0.9, "capsize": 2, "markersize": 5, **look_of(i)}
        drawn = axes.errorbar(x[i], y[i], linestyle="none", zorder=3, **bars, **look)
        drawn.lines[0].set_clip_on(False)  # a dot at 100 % is whole
        keep(axes, groups[i].letter, x[i], y[i], y[i] - off[i], y[i] + off[i])
    _scale(axes, x[known], cost, " or ".join(sorted(clocks(groups))))


def _name_points(axes: Axes, groups: Sequence[SeedGroup], x: np.ndarray, y: np.ndarray) -> None:
    """Write the letter of each group beside its point; labels that would overlap become one."""
    there = np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist()
    named = [[i] for i in there]
    texts = [_label(axes, groups, near, x, y) for near in named]
    while pair := _overlapping(texts):
        first, second = pair
        named[first] = sorted([*named[first], *named.pop(second)])
        for text in (texts[first], texts.pop(second)):
            text.remove()
        texts[first] = _label(axes, groups, named[first], x, y)
    _clear_of_symbols(axes, texts, np.column_stack([x[there], y[there]]))


def _clear_of_symbols(axes: Axes, texts: Sequence[Annotation], points: np.ndarray) -> None:
    """Move labels that lie on a symbol to another side of their point, where there is room."""
    size = 4.0 * axes.figure.dpi / 72  # half of a symbol
    pixels = axes.transData.transform(points)
    for text in texts:
        others = [other.get_window_extent() for other in texts if other is not text]
        for side in SIDES:
            text.set_position(side)
            text.set_horizontalalignment("left" if side[0] > 0 else "right")
            box = text.get_window_extent()
            low, high = np.array([box.x0, box.y0]) - size, np.array([box.x1, box.y1]) + size
            hit = ((pixels > low) & (pixels < high)).all(axis=1).any()
            if not hit and not any(box.overlaps(other) for other in others):
                break
        else:
            text.set_position(SIDES[0])
            text.set_horizontalalignment("left")


def _label(
    axes: Axes, groups: Sequence[SeedGroup], near: list[int], x: np.ndarray, y: np.ndarray
) -> Annotation:
    letters = ", ".join(groups[i].letter for i in near)
    colour = look_of(near[0])["color"] if len(near) == 1 else style.INK
    place: dict[str, Any] = {"textcoords": "offset points", "color": colour, "fontsize": 9}
    at = (float(x[near].mean()), float(y[near].mean()))
    return axes.annotate(letters, at, xytext=(6, 5), fontweight="bold", **place)


def _overlapping(texts: Sequence[Annotation]) -> tuple[int, int] | None:
    boxes = [text.get_window_extent() for text in texts]
    pairs = combinations(range(len(boxes)), 2)
    return next(((i, j) for i, j in pairs if boxes[i].overlaps(boxes[j])), None)


def _bar(deviation: float) -> float | None:
    return deviation if deviation > 0 else None


def _scale_accuracy(axes: Axes, groups: Sequence[SeedGroup]) -> None:
    """Leave room around the points and their bars, ending at 0 and at 100 %."""
    found = [summary(g, ACCURACY) for g in groups]
    found = [s for s in found if s.count]
    bars = np.array([uncertainty(g) for g in groups if summary(g, ACCURACY).count])
    mean = np.array([s.mean for s in found])
    low, high = float((mean - bars).min()), float((mean + bars).max())
    room = 0.2 * max(high - low, 0.01)
    axes.set_ylim(max(0.0, low - room), min(1.0, high + room) if mean.max() <= 1 else high + room)
    style.in_percent(axes)


def _scale(axes: Axes, x: np.ndarray, cost: Measure, clock: str) -> None:
    high = float(x.max())
    if high > 0:
        place = style.bytes_axis if cost is SENT else style.seconds_axis
        place(axes, 1.12 * high)
    unit = style.byte_unit(high)[1] if cost is SENT else style.time_unit(high)[1]
    talked = f"waiting and transferring, mean worker ({clock})"
    axes.set_xlabel(f"{unit} {'sent by a worker' if cost is SENT else talked}")
