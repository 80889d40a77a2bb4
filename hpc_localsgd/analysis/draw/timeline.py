"""A few rounds as a Gantt chart, a row a worker: computing, waiting, transferring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.draw import time
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.analysis.timeline import KINDS, Timeline, around_the_switch, timeline
from hpc_localsgd.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {kind: colour for kind, _, colour in time.KINDS}
NAMES = {kind: name for kind, name, _ in time.KINDS}
ROUNDS, ROWS = 24, 32  # at most
_ROW_IN, _MOST_IN = 0.3, 5.0


def draw_timeline(run: Trajectory) -> Figure | None:
    """Draw the rounds around the switch from single steps to longer rounds, else the first ones.

    Args:
        run: The run.

    Returns:
        None where no round was recorded, or all seconds are 0.
    """
    window = around_the_switch(run.rounds, ROUNDS)
    found = timeline(run, window)
    if not found.end_s > 0:
        return None
    rows = min(len(found.names), ROWS)
    high = min(_MOST_IN, max(0.9, _ROW_IN * rows))
    figure = style.sheet(9.6, high + 1.75, "Round by round", run)
    axes = style.panel(figure, 1.75, 0.45, 1.1, 0.6)
    for row in range(rows):
        _draw_row(axes, found, row)
    _mark_rounds(axes, run, found, rows)
    _label(axes, found, rows)
    return figure


def _draw_row(axes: Axes, found: Timeline, k: int) -> None:
    for kind in KINDS:
        begin, long = found.begin_s[kind][:, k], found.long_s[kind][:, k]
        there = np.flatnonzero(long > 0)
        bars = [(float(begin[i]), float(long[i])) for i in there]
        axes.broken_barh(bars, (k - 0.36, 0.72), color=COLOURS[kind], linewidth=0)
        names = ("seconds since the first", "seconds long")
        line = f"{found.names[k]}, {NAMES[kind]}"
        keep(axes, line, begin[there], long[there], names=names)


def _mark_rounds(axes: Axes, run: Trajectory, found: Timeline, rows: int) -> None:
    """Draw a hairline where a round ends on its last worker, and write H above longer rounds."""
    ends = np.nanmax(found.begin_s["transfer_s"] + found.long_s["transfer_s"], axis=1)
    begins = np.nanmin(found.begin_s["compute_s"], axis=1)
    before = -np.inf  # a worker may begin a round while another is in the one before
    for i, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if not np.isfinite(end):
            continue
        begin, before = max(begin, before), end
        axes.axvline(end, color="white", linewidth=0.8, zorder=3)
        H = int(run.rounds.local_steps[found.rounds[i]])
        if (end - begin) / found.end_s > 0.035:
            at = (begin + end) / 2
            axes.text(at, -0.62, f"H {H}", fontsize=7.5, color=style.GREY, ha="center", va="bottom")
    axes.set_ylim(rows - 0.4, -0.6)


def _label(axes: Axes, found: Timeline, rows: int) -> None:
    K = len(found.names)
    every = max(1, rows // 16)
    ticks = range(0, rows, every)
    axes.set_yticks(ticks, [found.names[k] for k in ticks])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    style.seconds_axis(axes, found.end_s)
    first, last = int(found.rounds[0]), int(found.rounds[-1])
    unit = style.time_unit(found.end_s)[1]
    shown = "" if rows == K else f", the first {rows} of {K} workers"
    clock = ", communication modelled" if found.modelled else ""
    axes.set_xlabel(f"{unit} of training, rounds {first:,} to {last:,}{shown}{clock}")
    handles = [axes.barh(0, 0, color=COLOURS[kind], label=NAMES[kind]) for kind in KINDS]
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1.08),
        ncols=3,
        frameon=False,
        fontsize=8,
        borderpad=0,
    )
