"""The spread of the workers at every exchange, above the learning rate and H that drive it.

Only measured values are drawn: a dot for each, and nothing between two of them. Where an
exchange makes all workers equal a stem goes down to 0 at the same step, known too; where it
does not, it goes from the spread before the exchange to the one after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import curves, style
from hpc_localsgd.analysis.draw.rate import draw_H, draw_rate
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.trajectory import Series, Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE = "before_exchange/spread"
STEMS = 240  # values up to which each has its own stem
_ZOOM = 12  # values shown beside them when there are more


def draw_spread(run: Trajectory) -> Figure:
    """Draw spread, learning rate and H against steps; of many values, the last enlarged.

    Args:
        run: The run.
    """
    spread = measured(run, "spread")
    zoomed = spread is not None and len(spread) > STEMS
    figure = style.sheet(9.6, 5.4, "Spread of the workers", run)
    margins = style.frame(figure, 0.9, 0.35, 0.95, 0.55)
    widths, gap = ((3.1, 1), 0.16) if zoomed else ((1,), 0)
    ratios: dict[str, Any] = {"height_ratios": (5, 1, 1), "width_ratios": widths}
    grid = figure.add_gridspec(3, len(widths), hspace=0.4, wspace=gap, **margins, **ratios)
    top, rate, local = (figure.add_subplot(grid[row, 0]) for row in range(3))
    _draw_main(top, run, spread)
    draw_rate(rate, run)
    draw_H(local, run)
    last = int(run.rounds.step_end[-1]) if len(run.rounds) else 1
    for axes in (top, rate, local):
        style.step_axis(axes, last, label=axes is local)
    if zoomed and spread is not None:
        _draw_zoom(figure.add_subplot(grid[0, 1]), run, spread)
    return figure


def measured(run: Trajectory, name: str) -> Series | None:
    """Return the values of a spread that are above rounding; None if there are none.

    Values below it (in older files, and 0 today) are of workers that are equal.

    Args:
        run: The run.
        name: `spread` or `BEFORE`.
    """
    found = curves.series_or_none(run, name)
    if found is None or not found.value.max() > 0:
        return None
    fine = found.value > 1e-9 * float(found.value.max())
    return Series(found.step[fine], found.value[fine], found.units, (), found.meaning, name)


def _draw_main(axes: Axes, run: Trajectory, spread: Series | None) -> None:
    before = measured(run, BEFORE)
    shown = [s for s in (spread, before) if s is not None]
    if not shown:
        style.note(axes, _why_none(run))
        return
    _scale(axes, np.concatenate([s.value for s in shown]))
    if spread is not None:
        _draw_values(axes, spread, before)
    elif before is not None:  # all that is left after the exchanges is rounding
        _draw_before(axes, before)
    _draw_exchanges(axes, run, before is not None)
    _explain_nothing(axes, run, shown)
    axes.set_ylabel("mean squared distance\nfrom the mean model")


def _why_none(run: Trajectory) -> str:
    if run.K == 1:
        return "one worker has no spread"
    some = curves.series_or_none(run, "spread") is not None
    return "no spread: the workers stayed together" if some else "no spread recorded"


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Make the axis logarithmic where the spread changes by orders of magnitude."""
    low, high = np.quantile(values, 0.05), float(values.max())
    if high < 40 * low:
        axes.set_ylim(0, 1.08 * high)
        return
    axes.set_yscale("log")
    axes.set_ylim(float(values.min()) / 2, 2 * high)


def _draw_values(axes: Axes, spread: Series, before: Series | None) -> None:
    """Draw a dot for each value; of many, the range of a bin as a line and its median as a dot."""
    keep(axes, "after an exchange" if before else "before an exchange", spread.step, spread.value)
    curve = curves.thinned(spread.step.astype(float), spread.value, 300)
    if len(curve.x) < len(spread):
        axes.vlines(curve.x, curve.low, curve.high, color=style.BLUE, alpha=0.25, linewidth=1.0)
    elif len(spread) <= STEMS:
        _draw_stems(axes, spread, before)
    size = 14 if len(curve.x) < 60 else 6
    dots = axes.scatter(curve.x, curve.y, s=size, color=style.BLUE, linewidth=0, zorder=4)
    style.clip_sideways(axes, [dots])


def _draw_stems(axes: Axes, spread: Series, before: Series | None) -> None:
    """Draw what an exchange does at its step: down to 0, or from the value before (open dots)."""
    look: dict[str, Any] = {"color": style.BLUE, "linewidth": 0.6, "alpha": 0.5}
    end = np.full(len(spread), axes.get_ylim()[0])
    if before is not None:
        _, ours, theirs = np.intersect1d(spread.step, before.step, return_indices=True)
        end[ours] = before.value[theirs]
        _draw_before(axes, before)
    axes.vlines(spread.step, end, spread.value, **look)


def _draw_before(axes: Axes, before: Series) -> None:
    keep(axes, "before an exchange", before.step, before.value)
    curve = curves.thinned(before.step.astype(float), before.value, 300)
    open_dots: dict[str, Any] = {"s": 9, "facecolor": "white", "edgecolor": style.BLUE}
    drawn = axes.scatter(curve.x, curve.y, linewidth=0.6, zorder=3, **open_dots)
    style.clip_sideways(axes, [drawn])


def _draw_exchanges(axes: Axes, run: Trajectory, apart: bool) -> None:
    """Draw a tick below the axis for every exchange, as dense as they were."""
    ends = run.rounds.step_end
    if not len(ends):
        return
    shown = np.unique(np.round(ends / max(1, ends[-1]) * 1400)) * ends[-1] / 1400
    low, high = (-0.035, -0.012)
    below: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    axes.vlines(shown, low, high, color=style.GREY, linewidth=0.5, **below)
    at: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "bottom"}
    moments = "filled: after an exchange, open: before it · " if apart else "measured before it · "
    text = f"each tick an exchange · {moments}nothing was measured between dots"
    axes.text(1, 1, text, color=style.GREY, fontsize=8, **at)


def _explain_nothing(axes: Axes, run: Trajectory, shown: list[Series]) -> None:
    """Write why nothing is shown where rounds of one step leave a wide gap."""
    switch = curves.first_local_step(run)
    first = min(int(s.step[0]) for s in shown)
    if switch is None or first <= switch or switch <= 0.12 * run.rounds.step_end[-1]:
        return
    why = "H = 1:\nthe workers\nstay together"
    at: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "linespacing": 1.4}
    axes.text(switch / 2, 0.5, why, color=style.GREY, fontsize=8, ha="center", **at)


def _draw_zoom(axes: Axes, run: Trajectory, spread: Series) -> None:
    from matplotlib.ticker import MaxNLocator

    part = Series(spread.step[-_ZOOM:], spread.value[-_ZOOM:], "", (), "", "")
    before = measured(run, BEFORE)
    every = [part.value, before.value[before.step >= part.step[0]] if before else part.value]
    axes.set_ylim(0, 1.15 * float(np.concatenate(every).max()))
    _draw_values(axes, part, before)
    margin = max(1, int(part.step[-1] - part.step[0]) // 12)
    axes.set_xlim(part.step[0] - margin, part.step[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.yaxis.get_offset_text().set(fontsize=8, color=style.GREY, ha="right")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_title(f"the last {len(part)} values", fontsize=8, color=style.GREY, loc="center")
    axes.set_xlabel("global step")
