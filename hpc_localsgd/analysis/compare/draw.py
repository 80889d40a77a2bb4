"""Accuracy against communication: every group a point with its deviations, the front a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.compare.groups import Group
from hpc_localsgd.analysis.compare.measures import ACCURACY, SENT, Measure, costs_of, front, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_front(groups: Sequence[Group]) -> Figure | None:
    """Two panels, bytes and seconds; None if no group has an accuracy.

    Bytes alone where some seconds are measured and some modelled.

    Args:
        groups: At least one.
    """
    if not any(summary(g, ACCURACY).count for g in groups):
        return None
    facts = [f"{len(groups)} configurations", f"{sum(len(g.runs) for g in groups)} runs"]
    shown = costs_of(groups)
    width = 9.6 if len(shown) == 2 else 5.6
    figure = style.titled_sheet(width, 4.0, "Accuracy against communication", facts)
    margins = style.frame(figure, 0.75, 0.35, 1.0, 0.6)
    grid: dict[str, Any] = {**margins, "wspace": 0.12}
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False, gridspec_kw=grid)[0]
    for axes, cost in zip(panels, shown, strict=True):
        _draw_panel(axes, groups, cost)
    panels[0].set_ylabel("test accuracy of the mean model")
    return figure


def _draw_panel(axes: Axes, groups: Sequence[Group], cost: Measure) -> None:
    from matplotlib.ticker import FuncFormatter

    costs = [summary(g, cost) for g in groups]
    gains = [summary(g, ACCURACY) for g in groups]
    x = np.array([c.mean for c in costs])
    y = np.array([g.mean for g in gains])
    best = front(x.tolist(), y.tolist())
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        style.note(axes, f"{cost.name}: not recorded")
        return
    axes.plot(x[best], y[best], color=style.PALE, linewidth=4, zorder=1, solid_joinstyle="round")
    for i in np.flatnonzero(known).tolist():
        colour = style.RED if i in best else style.GREY
        bars = {"xerr": _bar(costs[i].deviation), "yerr": _bar(gains[i].deviation)}
        look: dict[str, Any] = {"elinewidth": 0.9, "capsize": 2, "markersize": 5, **bars}
        axes.errorbar(x[i], y[i], fmt="o", color=colour, zorder=3, **look)
        place: dict[str, Any] = {"textcoords": "offset points", "color": colour, "fontsize": 9}
        axes.annotate(groups[i].letter, (x[i], y[i]), xytext=(6, 5), fontweight="bold", **place)
    _scale(axes, x[known], cost)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g} %"))


def _bar(deviation: float) -> float | None:
    return deviation if deviation > 0 else None


def _scale(axes: Axes, x: np.ndarray, cost: Measure) -> None:
    high = float(x.max())
    if high > 0:
        place = style.bytes_axis if cost is SENT else style.seconds_axis
        place(axes, 1.12 * high)
    unit = style.byte_unit(high)[1] if cost is SENT else style.time_unit(high)[1]
    words = "sent by a worker" if cost is SENT else "waiting and transferring, mean worker"
    axes.set_xlabel(f"{unit} {words}")
    axes.margins(y=0.2)
