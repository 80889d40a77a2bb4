"""Where the time went: computing, waiting, transferring, worker by worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.cost.formatting import human_seconds
from hpc_localsgd.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (
    ("compute_s", "computing", style.BLUE),
    ("wait_s", "waiting", style.YELLOW),
    ("transfer_s", "transferring", style.RED),
)


def draw_time(run: Trajectory) -> Figure:
    """Draw one bar a worker: a straggler computes long and waits little, the others the reverse.

    Args:
        run: The run.
    """
    spent = {column: np.nansum(run.rounds[column], axis=0) for column, _, _ in KINDS}  # [K] each
    workers = run.rounds.compute_s.shape[1]
    bars_in = min(6.4, max(0.55, 0.34 * workers))
    figure = style.sheet(8.0, bars_in + 1.8, "Where the time went", run)
    axes = style.panel(figure, 1.15, 0.35, 1.2, 0.6)
    longest = float(sum(spent.values()).max())
    if not longest > 0:
        style.note(axes, "no seconds recorded yet")
        axes.set_xticks([])
        return figure
    _draw_bars(axes, spent, workers, bars_in)
    _place_axes(axes, longest, workers, bars_in, str(run.attrs["clock"]))
    return figure


def _draw_bars(axes: Axes, spent: dict[str, np.ndarray], workers: int, bars_in: float) -> None:
    """Draw the bars and, above them, each kind with the mean worker's share of it."""
    left, row = np.zeros(workers), np.arange(workers)
    thick = 0.62 if bars_in / workers > 0.15 else 0.86
    total = sum(float(seconds.mean()) for seconds in spent.values())
    for column, name, colour in KINDS:
        mean = float(spent[column].mean())
        label = f"{human_seconds(mean)} {name}, {100 * mean / total:.3g} %"
        axes.barh(row, spent[column], thick, left=left, color=colour, linewidth=0, label=label)
        keep(axes, name, row, spent[column], names=("worker", "seconds"))
        left = left + spent[column]
    above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0.3}
    axes.legend(ncols=len(KINDS), frameon=False, handlelength=0.9, columnspacing=2.2, **above)


def _place_axes(axes: Axes, longest: float, workers: int, bars_in: float, clock: str) -> None:
    style.seconds_axis(axes, longest)
    axes.set_xlabel(f"{style.time_unit(longest)[1]} ({style.clock(clock)})")
    axes.grid(axis="y", visible=False)
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 10**9) if bars_in * n / workers > 0.17)
    axes.set_yticks(range(0, workers, every))
    axes.set_yticklabels([f"worker {k}" for k in range(0, workers, every)])
    axes.set_ylim(workers - 0.5, -0.5)  # worker 0 on top
    axes.spines["left"].set_visible(False)
