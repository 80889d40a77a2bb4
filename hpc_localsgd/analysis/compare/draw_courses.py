"""Several runs in one picture: loss, accuracy, consensus distance and sharpness, overlaid.

A configuration has the colour and the symbol of its letter in every panel. A band is one sample
standard deviation over seeds on each side; where there is one seed there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import curves, style
from hpc_localsgd.analysis.compare.courses import (
    MeanCurve,
    Quantity,
    Recorded,
    curve_of,
    smoothed,
)
from hpc_localsgd.analysis.compare.groups import SeedGroup
from hpc_localsgd.analysis.compare.legend import LINE_IN, draw_legend, look_of
from hpc_localsgd.analysis.compare.measures import clocks
from hpc_localsgd.analysis.costs import Axis
from hpc_localsgd.analysis.figure_data import keep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_IN = 2.35  # height of a panel
FEW = 60  # points up to which each has a symbol
SYMBOLS = 10  # of a curve of more


def draw_courses(
    groups: Sequence[SeedGroup], shown: Sequence[Recorded], axis: Axis
) -> Figure | None:
    """Overlay the groups, a panel for each quantity.

    Args:
        groups: At least one.
        shown: What was recorded of them.
        axis: What is on the abscissa.

    Returns:
        None where nothing has a course, or seconds of which some are modelled would be mixed.
    """
    if not shown or (axis.name == "seconds" and len(clocks(groups)) > 1):
        return None
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    legend = LINE_IN * len(groups)
    height = 1.0 + rows * PANEL_IN + legend + 0.65
    figure = style.titled_sheet(9.6 if columns == 2 else 5.6, height, _title(axis), _facts(groups))
    margins = style.frame(figure, 0.8, 0.45, 1.0, legend + 0.65)
    grid: dict[str, Any] = {**margins, "hspace": 0.38, "wspace": 0.24}
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, gridspec_kw=grid)
    for axes, found in zip(panels.flat, shown, strict=False):
        _draw_panel(axes, found, groups, axis)
    for axes in panels.flat[len(shown) :]:
        axes.set_visible(False)
    _name_abscissa(panels, len(shown), groups, axis)
    draw_legend(figure, groups, lines=True)
    return figure


def _title(axis: Axis) -> str:
    return {
        "steps": "Course of the runs, against steps",
        "bytes": "Course of the runs, against bytes sent",
        "seconds": "Course of the runs, against time",
    }[axis.name]


def _facts(groups: Sequence[SeedGroup]) -> list[str]:
    facts = [f"{len(groups)} configurations", f"{sum(len(g.counted) for g in groups)} runs"]
    if any(len(g.counted) > 1 for g in groups):
        facts.append("line and band: mean and standard deviation over seeds")
    return facts


def _draw_panel(axes: Axes, found: Recorded, groups: Sequence[SeedGroup], axis: Axis) -> None:
    quantity = found.quantity
    drawn = [(i, curve_of(values, axis)) for i, values in enumerate(found.of) if values]
    noisy = quantity.noisy and any(len(course.x) > FEW for _, course in drawn)
    if noisy:
        drawn = [(i, smoothed(course)) for i, course in drawn]
    _scale(axes, [course for _, course in drawn], quantity)
    for i, course in drawn:
        _draw_course(axes, course, groups[i].letter, i)
    name = f"{quantity.name}, running mean" if noisy else quantity.name
    axes.set_title(name, fontsize=9, loc="left", color=style.INK)


def _draw_course(axes: Axes, course: MeanCurve, letter: str, i: int) -> None:
    look = look_of(i)
    low, high = course.mean - course.deviation, course.mean + course.deviation
    keep(axes, letter, course.x, course.mean, low, high)
    if axes.get_yscale() == "log":  # as far below as above: mean - deviation may be negative
        low = course.mean**2 / high
    thin: dict[str, Any] = {"linewidth": 1.2, "color": look["color"], "zorder": 3}
    # Of many points some have the symbol: in grey it alone tells the lines apart.
    every = 1 if len(course.x) <= FEW else len(course.x) // SYMBOLS
    symbols: dict[str, Any] = {"marker": look["marker"], "markersize": 3.5, "markeredgewidth": 0}
    symbols["markevery"] = (i * every // 4 % every, every)  # groups begin at different points
    for piece in curves.pieces(len(course.x), course.breaks):
        alone = {"markevery": 1} if piece.stop - piece.start == 1 else {}
        lines = axes.plot(course.x[piece], course.mean[piece], **thin, **(symbols | alone))
        style.clip_sideways(axes, lines)
        if np.isfinite(low[piece]).any():
            band: dict[str, Any] = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
            axes.fill_between(course.x[piece], low[piece], high[piece], **band)


def _scale(axes: Axes, courses: Sequence[MeanCurve], quantity: Quantity) -> None:
    """Fit the ordinate to the measured values; say on the axis when it leaves values out."""
    value = np.concatenate([course.mean for course in courses])
    low, high = float(value.min()), float(value.max())
    if quantity.percent:
        _scale_share(axes, courses, low, high)
    else:
        room = 0.08 * max(high - low, 1e-3 * abs(high), 1e-12)
        style.fit(axes.set_yscale, axes.set_ylim, (low, high), room, quantity.logarithmic)


def _scale_share(axes: Axes, courses: Sequence[MeanCurve], low: float, high: float) -> None:
    """Scale percentages up to 100, leaving out the first values, which are near chance."""
    later = min(float(course.mean[min(1, len(course.mean) - 1) :].min()) for course in courses)
    upper = max(float((c.mean + np.nan_to_num(c.deviation)).max()) for c in courses)
    room = 0.08 * max(upper - later, 0.005)
    axes.set_ylim(max(0.0, later - room), min(1.0, upper + room) if high <= 1 else upper + room)
    style.in_percent(axes)
    if low < later - room:
        at: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 8, "color": style.GREY}
        axes.text(0.98, 0.03, f"first values, from {100 * low:.3g} %, are below", ha="right", **at)


def _name_abscissa(panels: Any, shown: int, groups: Sequence[SeedGroup], axis: Axis) -> None:
    columns = panels.shape[1]
    furthest = max(line.get_xdata().max() for axes in panels.flat for line in axes.get_lines())
    for i, axes in enumerate(panels.flat[:shown]):
        words = _place_axis(axes, axis, float(furthest), groups)
        lowest = i + columns >= shown
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel(words if lowest else "")


def _place_axis(axes: Axes, axis: Axis, furthest: float, groups: Sequence[SeedGroup]) -> str:
    if axis.name == "bytes":
        style.bytes_axis(axes, max(furthest, 1.0))
        return f"{style.byte_unit(furthest)[1]} sent by a worker"
    if axis.name == "seconds":
        style.seconds_axis(axes, max(furthest, 1e-9))
        (clock,) = clocks(groups)
        return f"{style.time_unit(furthest)[1]} of training ({style.clock(clock)})"
    style.step_axis(axes, round(furthest))
    return "global step"
