"""A landscape: a curve for a line, contours with the path of the run for a plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.end_labels import end_labels
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.analysis.landscape import Landscape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = 14


def draw_landscape(found: Landscape) -> Figure:
    """Draw a line or a plane.

    Args:
        found: The landscape.
    """
    facts = [str(found.attrs[n]) for n in ("task", "algorithm", "schedule") if n in found.attrs]
    if len(found.axes) == 1:
        figure = style.titled_sheet(7.8, 4.2, found.title, facts)
        _draw_line(figure, found)
    else:
        figure = style.titled_sheet(7.4, 6.2, found.title, facts)
        _draw_plane(figure, found)
    return figure


def _draw_line(figure: Figure, found: Landscape) -> None:
    axes = figure.add_subplot()
    figure.subplots_adjust(**style.frame(figure, 0.75, 1.35, 1.0, 0.6))
    x = found.axes[0]
    shown = (("train_loss", "train loss", style.YELLOW), ("test_loss", "test loss", style.BLUE))
    labels, most = [], []
    for name, text, colour in shown:
        y = found.values.get(name, np.full(len(x), np.nan))
        fine = np.isfinite(y)
        if fine.any():
            axes.plot(x, y, color=colour, marker=".", markersize=3)  # NaN: not evaluated yet
            keep(axes, text, x, y)
            dark = style.OCHRE if colour == style.YELLOW else colour
            labels.append((float(y[fine][-1]), text, dark))
            most.append(y[fine])
    if not most:
        style.note(axes, "not evaluated yet")
        return
    every = np.concatenate(most)
    if every.min() > 0 and every.max() > 30 * every.min():
        axes.set_yscale("log")
    axes.set_xlim(x[0], x[-1])
    if found.directions == "between":
        for at, text in ((0.0, "first"), (1.0, "second")):
            axes.axvline(at, color=style.INK, linewidth=0.8, linestyle=(0, (1, 2.5)))
            place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "fontsize": 8}
            axes.annotate(text, (at, 1.02), ha="center", color=style.GREY, **place)
    axes.set_xlabel("from the first model (0) to the second (1)")
    axes.set_ylabel("loss")
    end_labels(axes, labels)


def _draw_plane(figure: Figure, found: Landscape) -> None:
    axes = figure.add_subplot()
    figure.subplots_adjust(**style.frame(figure, 0.8, 1.0, 1.0, 0.6))
    z = found.values["train_loss"].T  # rows are the second axis
    fine = z[np.isfinite(z)]
    if len(fine) < 4 or not fine.max() > fine.min():
        style.note(axes, "not evaluated yet")
        return
    levels = _levels(fine)
    contours: dict[str, Any] = {"levels": levels, "extend": "max"}
    masked = np.ma.masked_invalid(z)
    filled = axes.contourf(*found.axes, masked, cmap=_colours(), norm=_norm(levels), **contours)
    _draw_scale(figure, axes, filled)
    lines = axes.contour(*found.axes, masked, levels=levels, colors="#5b6470", linewidths=0.45)
    axes.clabel(lines, levels[::2], fontsize=6.5, fmt=lambda v: f"{v:.2g}", colors=style.INK)
    axes.grid(False)
    for at, losses in zip(found.axes[1], z, strict=True):
        line = f"train loss at {at:g} of the second direction"
        keep(axes, line, found.axes[0], losses, names=("first direction", "train loss"))
    _draw_path(axes, found)
    _draw_workers(axes, found)
    of = "the workers' spread" if found.directions == "workers" else "the path"
    for i, name in enumerate(("first", "second")):
        share = f" ({100 * found.explained[i]:.0f} % of {of})" if len(found.explained) else ""
        set_label = axes.set_xlabel if i == 0 else axes.set_ylabel
        set_label(f"{name} direction{share}")
    axes.set_xlim(found.axes[0][0], found.axes[0][-1])
    axes.set_ylim(found.axes[1][0], found.axes[1][-1])


def _draw_scale(figure: Figure, axes: Axes, filled: Any) -> None:
    """Draw the colours with their losses, beside the plane."""
    box, width = axes.get_position(), figure.get_size_inches()[0]
    place = figure.add_axes((box.x1 + 0.12 / width, box.y0, 0.13 / width, box.height))
    scale = figure.colorbar(filled, cax=place, label="train loss", ticks=filled.levels[::3])
    scale.outline.set_visible(False)
    scale.ax.yaxis.set_major_formatter(lambda v, _: f"{v:.2g}")
    scale.ax.tick_params(length=0)


def _draw_path(axes: Axes, found: Landscape) -> None:
    """Draw the snapshots from first (open) to last (red); random directions miss the path."""
    if found.directions == "random":
        axes.scatter(0, 0, s=26, color=style.RED, edgecolor=style.INK, linewidth=0.8, zorder=4)
    if found.directions != "pca" or not len(found.position):
        return
    from matplotlib.patheffects import withStroke

    x, y = found.position[:, 0], found.position[:, 1]
    axes.plot(x, y, color=style.INK, linewidth=1.0, zorder=3)
    keep(axes, "path of the run", x, y)
    dots: dict[str, Any] = {"zorder": 4, "linewidth": 0.8, "edgecolor": style.INK}
    axes.scatter(x[:-1], y[:-1], s=14, color="white", **dots)
    axes.scatter(x[-1:], y[-1:], s=26, color=style.RED, **dots)
    halo = [withStroke(linewidth=2.5, foreground="white", alpha=0.8)]
    at: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5, "path_effects": halo}
    low, high = (a[[0, -1]] for a in found.axes)
    for i in {0, len(x) - 1}:
        if low[0] <= x[i] <= low[1] and high[0] <= y[i] <= high[1]:
            axes.annotate(f"step {found.step[i]:,}", (x[i], y[i]), xytext=(6, 5), **at)


def _draw_workers(axes: Axes, found: Landscape) -> None:
    """Draw each worker (white) and what an exchange does to it: a line to the mean (red)."""
    if not len(found.workers):
        return
    x, y = found.workers[:, 0], found.workers[:, 1]
    keep(axes, "workers", x, y)
    for to_x, to_y in zip(x, y, strict=True):
        axes.plot([to_x, 0], [to_y, 0], color=style.INK, linewidth=0.8, zorder=3)
    dots: dict[str, Any] = {"zorder": 4, "linewidth": 0.8, "edgecolor": style.INK}
    axes.scatter(x, y, s=26, color="white", **dots)
    axes.scatter(0, 0, s=44, color=style.RED, **dots)


def _levels(fine: np.ndarray) -> np.ndarray:
    """Return levels: evenly spaced where losses are of one size, else in equal ratios."""
    low, high = float(fine.min()), float(np.quantile(fine, 0.97))
    if low > 0 and high > 8 * low:
        return np.geomspace(low, high, LEVELS)
    return np.linspace(low, max(high, low + 1e-12), LEVELS)


def _norm(levels: np.ndarray) -> Any:
    from matplotlib.colors import BoundaryNorm

    return BoundaryNorm(levels, 256, extend="max")


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("depth", ["#f6f8fb", "#c9d5e5", "#8fabcb", "#4a78ab"])
