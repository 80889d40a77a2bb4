"""Loss and accuracy against all that a run costs: steps and epochs, bytes, seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.costs import AXES, SENT, STEPS, Axis
from hpc_localsgd.analysis.draw.accuracy import (
    ALONE,
    accuracy_labels,
    draw_losses,
    draw_score,
    last_step,
    loss_labels,
    name_rows,
    rows_of,
)
from hpc_localsgd.analysis.end_labels import end_labels
from hpc_localsgd.analysis.planned import steps_per_epoch
from hpc_localsgd.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_course(run: Trajectory) -> Figure:
    """Draw two rows (loss, test accuracy if any) with a column for each cost that is known.

    Args:
        run: The run.
    """
    last = last_step(run)
    known = [cost for cost in AXES if cost.of(run, np.array([last]))[0] > 0]
    shown = known or [STEPS]
    width = 2.0 + 2.9 * len(shown)
    rows, title = rows_of(run)
    figure = style.sheet(width, 5.6 if rows == 2 else 5.6 * ALONE, title, run)
    margins = style.frame(figure, 0.8, 1.1, 1.2, 0.55)
    grid: dict[str, Any] = {**margins, "hspace": 0.14, "wspace": 0.1}
    panels = figure.subplots(rows, len(shown), squeeze=False, sharey="row", gridspec_kw=grid)
    for column, cost in enumerate(shown):
        _draw_column(run, panels[:, column], cost)
        _place_axis(run, panels[:, column], cost, last)
        for axes in panels[:, column]:
            axes.tick_params(labelleft=column == 0)
    name_rows(panels[:, 0])
    _label_ends(run, panels)
    return figure


def _draw_column(run: Trajectory, panels: np.ndarray, cost: Axis) -> None:
    def x(step: np.ndarray) -> np.ndarray:
        return cost.of(run, step)

    draw_losses(panels[0], run, x)
    if len(panels) == 2:
        draw_score(panels[1], run, x)


def _place_axis(run: Trajectory, panels: np.ndarray, cost: Axis, last: int) -> None:
    end = float(cost.of(run, np.array([last]))[0])
    top, bottom = panels[0], panels[-1]
    for axes in panels:
        if cost is STEPS:
            style.step_axis(axes, last, label=axes is bottom)
        elif cost is SENT:
            style.bytes_axis(axes, end)
        else:
            style.seconds_axis(axes, end)
        axes.tick_params(labelbottom=axes is bottom)
    if cost is STEPS:
        _add_epochs(top, run, last)
    elif cost is SENT:
        bottom.set_xlabel(f"{style.byte_unit(end)[1]} sent by a worker")
    else:
        clock = style.clock(str(run.attrs["clock"]))
        bottom.set_xlabel(f"{style.time_unit(end)[1]}, the slowest worker ({clock})")


def _add_epochs(axes: Axes, run: Trajectory, last: int) -> None:
    """Add the same axis in epochs at the top."""
    an_epoch = steps_per_epoch(run)
    if not an_epoch > 0:
        return
    from matplotlib.ticker import MaxNLocator

    both: Any = (lambda t: t / an_epoch, lambda e: e * an_epoch)
    above = axes.secondary_xaxis("top", functions=both)
    above.xaxis.set_major_locator(MaxNLocator(4, integer=last > 2 * an_epoch))
    above.spines["top"].set_visible(False)
    above.tick_params(labelsize=8, length=2, pad=1)
    above.set_xlabel("epochs", color=style.GREY, fontsize=8, labelpad=3)


def _label_ends(run: Trajectory, panels: np.ndarray) -> None:
    end_labels(panels[0, -1], loss_labels(run))
    if len(panels) == 2:
        end_labels(panels[1, -1], accuracy_labels(run))
