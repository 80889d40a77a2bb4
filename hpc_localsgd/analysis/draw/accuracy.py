"""Loss and accuracy against steps, and against the seconds that communication cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import curves, style
from hpc_localsgd.analysis.costs import communication_s
from hpc_localsgd.analysis.curves import ACCURACY, TEST_LOSS, TRAIN
from hpc_localsgd.analysis.end_labels import end_labels
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.trajectory import Series, Trajectory

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 120  # points up to which each has a dot of its own
ALONE = 0.62  # height of the figure when there is no accuracy below the loss


def draw_accuracy(run: Trajectory) -> Figure:
    """Draw two rows (loss, test accuracy) and two columns (steps, communication; one when K = 1).

    One row for a task that has no accuracy.

    Args:
        run: The run.
    """
    last = last_step(run)
    spent = float(communication_s(run, np.array([last]))[0])
    columns = 2 if spent > 0 else 1
    rows, title = rows_of(run)
    height = 5.4 if rows == 2 else 5.4 * ALONE
    figure = style.sheet(9.6 if columns == 2 else 7.4, height, title, run)
    margins = style.frame(figure, 0.8, 1.15, 1.05, 0.55)
    grid: dict[str, Any] = {**margins, "hspace": 0.16, "wspace": 0.1}
    panels = figure.subplots(rows, columns, squeeze=False, sharey="row", gridspec_kw=grid)
    for column, seconds in enumerate((False, True)[:columns]):
        _draw_column(run, panels[:, column], seconds)
        _place_axis(panels[:, column], last, spent, seconds, str(run.attrs["clock"]))
        _mark_switch(run, panels[:, column], seconds)
    end_labels(panels[0, -1], loss_labels(run))
    if rows == 2:
        end_labels(panels[1, -1], accuracy_labels(run))
    return figure


def rows_of(run: Trajectory) -> tuple[int, str]:
    """Return the rows of a figure of loss and accuracy, and its title: a task may have no accuracy.

    Args:
        run: The run.
    """
    return (1, "Loss") if curves.without_accuracy(run) else (2, "Loss and accuracy")


def _draw_column(run: Trajectory, panels: np.ndarray, seconds: bool) -> None:
    def x(step: np.ndarray) -> np.ndarray:
        return communication_s(run, step) if seconds else step

    draw_losses(panels[0], run, x)
    if len(panels) == 2:
        draw_score(panels[1], run, x)
    if not seconds:
        name_rows(panels)


def name_rows(panels: np.ndarray) -> None:
    """Name the panels of a column: loss, and below it test accuracy if there is any.

    Args:
        panels: One or two.
    """
    for axes, name in zip(panels, ("loss", "test accuracy"), strict=False):
        axes.set_ylabel(name)


def draw_losses(axes: Axes, run: Trajectory, x: Callable[[np.ndarray], np.ndarray]) -> None:
    """Draw training loss and test loss, or a note where there are none.

    Args:
        axes: The panel.
        run: The run.
        x: Where a step is on the axis.
    """
    train, test = (curves.series_or_none(run, name) for name in (TRAIN, TEST_LOSS))
    if train is not None:
        draw_noisy(axes, x(train.step), train.value, curves.breaks(run, train.step))
        keep(axes, "train loss", x(train.step), train.value)
    if test is not None:
        draw_points(axes, x(test.step), test.value, style.BLUE, curves.late(test.step))
        keep(axes, "test loss", x(test.step), test.value)
    scale_loss(axes, [s.value for s in (train, test) if s is not None])


def draw_score(axes: Axes, run: Trajectory, x: Callable[[np.ndarray], np.ndarray]) -> None:
    """Draw the test accuracy, or a note where there is none.

    Args:
        axes: The panel.
        run: The run.
        x: Where a step is on the axis.
    """
    score = curves.series_or_none(run, ACCURACY)
    if score is not None:
        draw_points(axes, x(score.step), score.value, style.RED, curves.late(score.step))
        keep(axes, "mean model", x(score.step), score.value)
    scale_accuracy(axes, score)


def draw_noisy(axes: Axes, x: np.ndarray, y: np.ndarray, breaks: Sequence[int] | Any = ()) -> None:
    """Draw the loss of batches: each value pale, their running mean strong, no line over a gap.

    Args:
        axes: The panel.
        x: ``[n]`` ascending.
        y: ``[n]`` finite.
        breaks: Indices before which something is missing.
    """
    window = max(1, len(y) // 40)
    band: dict[str, Any] = {"color": style.YELLOW, "alpha": 0.18, "linewidth": 0}
    pale: dict[str, Any] = {"color": style.YELLOW, "alpha": 0.35, "linewidth": 0.7}
    for piece in curves.pieces(len(x), breaks):
        course = curves.thinned(x[piece], curves.smoothed(y[piece], window))
        every = curves.thinned(x[piece], y[piece])
        axes.plot(every.x, every.y, **pale, marker="." if len(every.x) <= FEW else "")
        if (every.low < every.high).any():
            axes.fill_between(every.x, every.low, every.high, **band)
        axes.plot(course.x, course.y, color=style.YELLOW, marker="." if len(course.x) == 1 else "")


def draw_points(
    axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, breaks: Sequence[int] | Any = ()
) -> None:
    """Draw exact values: a dot each, and a line where none is missing between two.

    Args:
        axes: The panel.
        x: ``[n]`` ascending.
        y: ``[n]`` finite.
        colour: Of the line and its dots.
        breaks: Indices before which something is missing.
    """
    few = len(x) <= FEW
    dots: dict[str, Any] = {"s": 10 if few else 4, "color": colour}
    dots |= {"edgecolor": "white", "linewidth": 0.6} if few else {"linewidth": 0}
    drawn: list[Artist] = []
    for piece in curves.pieces(len(x), breaks):
        curve = curves.thinned(x[piece], y[piece])
        drawn += axes.plot(curve.x, curve.y, color=colour, zorder=3, linewidth=1.2)
        if few or len(curve.x) == 1:
            drawn.append(axes.scatter(curve.x, curve.y, zorder=4, **dots))
    style.clip_sideways(axes, drawn)


def scale_loss(axes: Axes, values: list[np.ndarray]) -> None:
    """Scale the axis for losses: logarithmic beyond one decade; write a note if there are none.

    Args:
        axes: The panel.
        values: The losses in it.
    """
    if not values:
        style.note(axes, "no loss recorded yet")
        return
    every = np.concatenate(values)
    if every.min() > 0 and every.max() > 15 * every.min():
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_yscale("log")
        decades = np.log10(every.max() / every.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if decades < 3 else (1,), numticks=9))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.08)


def scale_accuracy(axes: Axes, score: Series | None) -> None:
    """Scale the axis for accuracies in percent, with room at the ends; write a note if none.

    Args:
        axes: The panel.
        score: The accuracies in it.
    """
    if score is None:
        style.note(axes, "no evaluation yet")
        return
    from matplotlib.ticker import MaxNLocator

    # The first evaluations, near chance, would take the room of all the others.
    early, best = np.quantile(score.value, 0.1), score.value.max()
    bottom = min(early, best - 0.02)
    top = min(1.0, best + 0.15 * (best - bottom)) if best <= 1 else best * 1.05
    axes.set_ylim(max(0.0, bottom - 0.08 * (top - bottom)), top)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    style.in_percent(axes)


def _place_axis(panels: np.ndarray, last: int, spent_s: float, seconds: bool, clock: str) -> None:
    for axes in panels:
        lowest = axes is panels[-1]
        if seconds:
            style.seconds_axis(axes, spent_s)
            axes.tick_params(labelbottom=lowest, labelleft=False)
        else:
            style.step_axis(axes, last, label=lowest)
    if seconds:
        _, unit = style.time_unit(spent_s)
        panels[-1].set_xlabel(f"{unit} waiting and transferring, mean worker ({clock})")


def _mark_switch(run: Trajectory, panels: np.ndarray, seconds: bool) -> None:
    step = curves.first_local_step(run)
    if step is None:
        return
    x = float(communication_s(run, np.array([step]))[0]) if seconds else step
    for axes in panels:
        axes.axvline(x, color=style.INK, linewidth=0.8, linestyle=(0, (1, 2.5)), zorder=1)
    later = run.rounds.local_steps[run.rounds.step_begin >= step]
    above: dict[str, Any] = {
        "xycoords": ("data", "axes fraction"),
        "textcoords": "offset points",
        "fontsize": 8,
    }
    sides = (("← H = 1", -4, "right"), (f"H = {_range(later)} →", 4, "left"))
    for text, shift, side in sides:
        panels[0].annotate(text, (x, 1.03), xytext=(shift, 0), ha=side, color=style.GREY, **above)


def _range(later: np.ndarray) -> str:
    """Format ``8`` for a constant H (a short last round aside), ``4-32`` for one that changes."""
    low, high = int(later[:-1].min(initial=later[0])), int(later.max())
    return f"{high}" if low == high else f"{low}-{high}"


def loss_labels(run: Trajectory) -> list[tuple[float, str, str]]:
    """Return the names of the losses with their last values, for `end_labels`.

    Args:
        run: The run.
    """
    labels = []
    train, test = (curves.series_or_none(run, name) for name in (TRAIN, TEST_LOSS))
    if train is not None:
        end = curves.smoothed(train.value, max(1, len(train) // 40))
        end_value = float(np.mean(end[-max(1, len(end) // 40) :]))
        labels.append((end_value, "train loss", style.OCHRE))
    if test is not None:
        labels.append((float(test.value[-1]), "test loss", style.BLUE))
    return labels


def accuracy_labels(run: Trajectory) -> list[tuple[float, str, str]]:
    """Return the last accuracy, for `end_labels`.

    Args:
        run: The run.
    """
    score = curves.series_or_none(run, ACCURACY)
    if score is None:
        return []
    end = float(score.value[-1])
    return [(end, f"{100 * end:.2f} %\nmean model", style.RED)]


def last_step(run: Trajectory) -> int:
    """Return the last step of which anything is known.

    Args:
        run: The run.
    """
    ends = [int(run.rounds.step_end[-1])] if len(run.rounds) else [0]
    for name in (TRAIN, TEST_LOSS, ACCURACY):
        found = curves.series_or_none(run, name)
        ends += [int(found.step[-1])] if found is not None else []
    return max(ends)
