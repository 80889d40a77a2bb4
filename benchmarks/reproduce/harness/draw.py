"""The look of the figures: one row of panels below a heading, each with a title of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.end_labels import end_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(
    title: str, facts: Sequence[str], titles: Sequence[str], apart: float = 0.35
) -> tuple[Figure, list[Axes]]:
    """Make a figure with a row of panels.

    Args:
        title: What the figure shows.
        facts: Of the runs, each a few words.
        titles: Of the panels.
        apart: Between two panels, in widths of one.
    """
    figure = style.titled_sheet(9.6, 3.6, title, facts)
    found = figure.subplots(1, len(titles), gridspec_kw={"wspace": apart}, squeeze=False)[0]
    figure.subplots_adjust(**style.frame(figure, 0.62, 0.35, 1.1, 0.55))
    for axes, text in zip(found, titles, strict=True):
        axes.set_title(text, fontsize=9, loc="left", color=style.INK)
    return figure, list(found)


def seeds(axes: Axes, xs: Sequence[float], rows: Sequence[Sequence[float]], **look: Any) -> None:
    """Draw one dot a seed, and a line through the means.

    Args:
        axes: The panel.
        xs: Where each condition stands.
        rows: Its numbers, one a seed.
        look: colour and label.
    """
    means = [float(np.nanmean(row)) if np.isfinite(row).any() else np.nan for row in rows]
    axes.plot(xs, means, **look)
    for x, row in zip(xs, rows, strict=True):
        axes.plot([x] * len(row), row, "o", ms=2.8, alpha=0.6, color=look.get("color"))


def named_lines(
    figure: Figure,
    axes: Axes,
    xs: Sequence[float],
    lines: Sequence[tuple[str, str, Sequence[Sequence[float]]]],
    sides_in: tuple[float, float],
    from_zero: bool = False,
) -> None:
    """Draw dots and lines over numbers that grow by factors, and name each line at its end.

    Args:
        figure: Of one panel.
        axes: The panel.
        xs: The conditions.
        lines: Name, colour, and for each condition its numbers, one a seed.
        sides_in: Margins for the labels, left and right, in inches.
        from_zero: Begin the ordinate there.
    """
    for _, colour, rows in lines:
        seeds(axes, xs, rows, color=colour)
    plain_log(axes, xs)
    if from_zero:
        axes.set_ylim(bottom=0)
    figure.subplots_adjust(**style.frame(figure, *sides_in, 1.1, 0.55))
    ends = [(float(np.mean(rows[-1])), name, colour) for name, colour, rows in lines]
    end_labels(axes, ends)


def plain_log(axes: Axes, ticks: Sequence[float]) -> None:
    """Give a logarithmic x axis ticks that are written as the numbers they are."""
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
