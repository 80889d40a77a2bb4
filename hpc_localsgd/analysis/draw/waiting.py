"""Waiting of every rank along the run: a straggler is the pale line among dark ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.analysis.waiting import Waiting, waiting
from hpc_localsgd.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 160  # along the run
_MOST_IN, _ROW_IN = 6.0, 0.32


def draw_waiting(run: Trajectory) -> Figure:
    """Draw a line a rank, dark where it waited for others, and beside it the waiting it caused.

    Args:
        run: The run.
    """
    found = waiting(run)
    n = len(found.names)
    high = min(_MOST_IN, max(0.9, _ROW_IN * n))
    figure = style.sheet(9.6, high + 1.65, "Who waits for whom", run)
    margins = style.frame(figure, 1.75, 0.45, 1.05, 0.6)
    grid = figure.add_gridspec(1, 2, width_ratios=(3.2, 1), wspace=0.06, **margins)
    course, caused = (figure.add_subplot(grid[0, i]) for i in range(2))
    if not np.nansum(found.wait_s) > 0:
        style.note(course, "no rank waited" if len(run.rounds) else "no round yet")
        caused.set_axis_off()
        course.set_xticks([])
        return figure
    _draw_course(figure, course, run, found)
    _draw_caused(caused, found)
    _name_rows(course, found, high)
    return figure


def binned(run: Trajectory, found: Waiting) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges ``[B + 1]`` in steps and the share of its time each rank waited ``[n, B]``.

    Args:
        run: The run.
        found: Of the same run.
    """
    rounds = run.rounds
    last = int(rounds.step_end[-1])
    # No bin narrower than a round: it would be empty.
    count = int(min(BINS, len(rounds), max(1, last // max(1, int(rounds.local_steps.max())))))
    edges = np.linspace(0, last, count + 1)
    place = np.clip(np.searchsorted(edges, rounds.step_end, side="left") - 1, 0, count - 1)
    waited, total = (np.zeros((count, len(found.names))) for _ in range(2))
    np.add.at(waited, place, np.nan_to_num(found.wait_s))
    np.add.at(total, place, np.nan_to_num(found.compute_s + found.wait_s + found.transfer_s))
    return edges, np.where(total > 0, waited / np.maximum(total, 1e-300), np.nan).T


def _draw_course(figure: Figure, axes: Axes, run: Trajectory, found: Waiting) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    edges, share = binned(run, found)
    colours = LinearSegmentedColormap.from_list("waiting", ["#f6f4ee", style.YELLOW, "#7a4a00"])
    top = max(1e-6, float(np.nanmax(share)))
    rows = np.arange(len(found.names) + 1) - 0.5
    mesh = axes.pcolormesh(edges, rows, share, cmap=colours, vmin=0, vmax=top, rasterized=True)
    for name, waited in zip(found.names, share, strict=True):
        names = ("global step", "share of its time waiting since the last")
        keep(axes, name, edges[1:], waited, names=names)
    style.step_axis(axes, int(edges[-1]))
    axes.grid(False)
    axes.set_ylim(len(found.names) - 0.5, -0.5)
    box = axes.get_position()
    height = figure.get_size_inches()[1]
    bar = figure.add_axes((box.x1 - 0.2, box.y1 + 0.12 / height, 0.2, 0.07 / height))
    scale = figure.colorbar(mesh, cax=bar, orientation="horizontal", ticks=[0, top])
    scale.outline.set_visible(False)
    scale.ax.xaxis.set_ticks_position("top")
    scale.ax.set_xticklabels(["0", f"{100 * top:.0f} % of its time"], fontsize=7.5)
    scale.ax.tick_params(length=0, pad=1)


def _draw_caused(axes: Axes, found: Waiting) -> None:
    """Draw bars of the waiting that each rank caused, stragglers in red."""
    caused, named = found.caused_s, found.stragglers()
    share = caused / caused.sum() if caused.sum() > 0 else caused
    colours = [style.RED if i in named else style.GREY for i in range(len(share))]
    axes.barh(np.arange(len(share)), share, 0.6, color=colours, linewidth=0)
    names = ("row", "share of all waiting that was for it")
    keep(axes, "caused", np.arange(len(share)), share, names=names)
    axes.set_ylim(len(share) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.set_yticks([])
    axes.grid(False)
    axes.set_xlabel("of all waiting was for it")


def _name_rows(axes: Axes, found: Waiting, high: float) -> None:
    n = len(found.names)
    every = next(m for m in (1, 2, 4, 8, 16, 32, 64, 128, 10**9) if high * m / n > 0.17)
    axes.set_yticks(range(0, n, every), [found.names[i] for i in range(0, n, every)])
    axes.spines["left"].set_visible(False)
    named = set(found.stragglers())
    labels: list[Any] = list(axes.get_yticklabels())
    for i, label in zip(range(0, n, every), labels, strict=True):
        if i in named:
            label.set(color=style.RED, fontweight="bold")
