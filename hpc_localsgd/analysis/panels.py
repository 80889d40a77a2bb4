"""Any series in a small panel: what its axes mean is read from the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import curves, style
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.trajectory import Series, Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
# How an estimate was made, or too much for a panel: in the file, not on the page.
QUIET = ("_error", "residuals", "_probes", "density_nodes", "density_weights")
FEW_LINES = 12  # more entries than these are drawn as the range they cover
COLOURS = (style.BLUE, style.RED, style.YELLOW, style.GREY)


@dataclass(frozen=True)
class PanelLine:
    """One quantity in a panel.

    Attributes:
        series: ``[n]``, or ``[n, m]`` for m lines, or for a band if the axis is of workers.
        label: Its name in the panel, empty where it is alone.
        error: Standard error of it, if there is one.
        everywhere: Whether it is known between its values too, as a rate is that is a formula.
    """

    series: Series
    label: str = ""
    error: Series | None = None
    everywhere: bool = False


@dataclass(frozen=True)
class Panel:
    """A small panel.

    Attributes:
        title: What it shows.
        lines: In the order of `COLOURS`.
    """

    title: str
    lines: tuple[PanelLine, ...]

    @property
    def known(self) -> bool:
        """Whether it has a finite value."""
        return any(np.isfinite(line.series.value).any() for line in self.lines)


def panel_of(series: Series, title: str = "") -> Panel:
    """Make a panel for a series of which nothing is known but what the file says.

    Args:
        series: The series.
        title: What it is, in front of its unit. Default: its name in the file.
    """
    units = "" if series.units in ("", "1") else f", {series.units}"
    return Panel(f"{title or series.name}{units}", (PanelLine(series),))


def panels_of(
    known: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    found: Mapping[str, Series],
    prefix: str = "",
) -> list[Panel]:
    """Make panels of the known series, with their errors, and plain ones of all others.

    Args:
        known: Title of a panel, and the names in it with their labels.
        found: The series by name.
        prefix: In front of the names in `found`, where they have one.
    """
    panels, shown = [], set()
    for title, names in known:
        shown |= {prefix + name for name, _ in names}
        lines = tuple(
            PanelLine(found[prefix + name], label, found.get(f"{prefix}{name}_error"))
            for name, label in names
            if prefix + name in found
        )
        panels += [Panel(title, lines)] if lines else []
    others = [name for name in found if name not in shown and not name.endswith(QUIET)]
    return [*panels, *(panel_of(found[name]) for name in others)]


def draw_panels(run: Trajectory, title: str, panels: Sequence[Panel]) -> Figure:
    """Draw small panels over the global step, three in a row.

    Args:
        run: The run.
        title: What they are together.
        panels: At least one; those without a finite value are left out if others have some.
    """
    panels = [panel for panel in panels if panel.known] or panels[:1]
    rows = -(-len(panels) // COLUMNS)
    figure = style.sheet(9.6, 1.4 + 2.15 * rows, title, run)
    margins = style.frame(figure, 0.75, 0.35, 1.05, 0.55)
    grid: dict[str, Any] = {**margins, "wspace": 0.28, "hspace": 0.5}
    axes = figure.subplots(rows, COLUMNS, squeeze=False, gridspec_kw=grid)
    last = max((int(line.series.step[-1]) for p in panels for line in p.lines), default=1)
    for i, (place, panel) in enumerate(zip(axes.flat, panels, strict=False)):
        draw_panel(place, panel, last)
        if i + COLUMNS >= len(panels):  # nothing stands below it
            place.set_xlabel("global step")
    for place in axes.flat[len(panels) :]:
        place.set_axis_off()
    return figure


def draw_panel(axes: Axes, panel: Panel, last: int) -> None:
    """Draw one panel.

    Args:
        axes: Where.
        panel: What.
        last: Last step of the axis.
    """
    style.title(axes, panel.title)
    shown = [
        _draw_line(axes, line, colour)
        for line, colour in zip(panel.lines, COLOURS, strict=False)
        if np.isfinite(line.series.value).any()
    ]
    if not shown:
        style.note(axes, "no finite value")
        axes.set_xticks([])
        return
    _scale(axes, np.concatenate(shown))
    style.step_axis(axes, last)
    axes.set_xlabel("")
    _name_lines(axes, panel)


def _draw_line(axes: Axes, line: PanelLine, colour: str) -> np.ndarray:
    """Draw a line; return the finite values drawn."""
    step, value = line.series.step.astype(float), line.series.value
    flat = value.reshape(len(value), -1).astype(float)
    _keep(axes, line, flat)
    if line.everywhere:
        axes.plot(step, flat[:, 0], color=colour, linewidth=1.3)
    elif flat.shape[1] > FEW_LINES or (flat.shape[1] > 1 and line.series.dims == ("worker",)):
        _draw_band(axes, step, flat, colour)
    else:
        for j in range(flat.shape[1]):
            fade = 1 - 0.75 * j / max(1, flat.shape[1])
            _draw_one(axes, step, flat[:, j], colour, fade)
    if line.error is not None and line.error.value.shape == value.shape and value.ndim == 1:
        look: dict[str, Any] = {"fmt": "none", "ecolor": colour, "elinewidth": 0.9}
        bars = axes.errorbar(step, value, line.error.value, capsize=1.5, **look)
        style.clip_sideways(axes, bars.get_children())
    return flat[np.isfinite(flat)]


def _keep(axes: Axes, line: PanelLine, flat: np.ndarray) -> None:
    """Keep the values of a line, each entry of several under its number."""
    name, error = line.label or line.series.name, line.error
    whole = error is not None and error.value.shape == line.series.value.shape
    for j, y in enumerate(flat.T):
        off = error.value.reshape(flat.shape)[:, j] if whole and error is not None else None
        ends = () if off is None else (y - off, y + off)
        keep(axes, f"{name} {j}" if flat.shape[1] > 1 else name, line.series.step, y, *ends)


def _draw_one(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, fade: float) -> None:
    """Draw a dot for each value, and a thin line where none is missing between two."""
    fine = np.isfinite(y)
    x, y = x[fine], y[fine]
    few = len(x) <= 40
    for piece in curves.pieces(len(x), curves.late(x)):
        curve = curves.thinned(x[piece], y[piece], 300)
        look: dict[str, Any] = {"color": colour, "alpha": fade, "linewidth": 1.0}
        style.clip_sideways(axes, axes.plot(curve.x, curve.y, **look))
        if few or len(curve.x) == 1:
            dots: dict[str, Any] = {"s": 8 if few else 3, "color": colour, "alpha": fade}
            drawn = axes.scatter(curve.x, curve.y, linewidth=0, zorder=3, **dots)
            style.clip_sideways(axes, [drawn])


def _draw_band(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """Draw the range of the entries as a band, their mean as a line."""
    fine = np.isfinite(y).any(axis=1)
    x, y = x[fine], y[fine]
    low, high, mean = np.nanmin(y, axis=1), np.nanmax(y, axis=1), np.nanmean(y, axis=1)
    for piece in curves.pieces(len(x), curves.late(x)):
        look: dict[str, Any] = {"color": colour, "alpha": 0.18, "linewidth": 0}
        if len(x[piece]) > 1:
            axes.fill_between(x[piece], low[piece], high[piece], **look)
        else:
            axes.vlines(x[piece], low[piece], high[piece], color=colour, alpha=0.18, linewidth=3)
    _draw_one(axes, x, mean, colour, 1.0)


def _scale(axes: Axes, values: np.ndarray) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    axes.margins(y=0.12)
    if len(values) > 2 and values.min() > 0 and values.max() > 50 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.4g}"))
        if values.min() >= 0:
            axes.set_ylim(bottom=0)  # the top keeps its margin


def _name_lines(axes: Axes, panel: Panel) -> None:
    named = [(line.label, c) for line, c in zip(panel.lines, COLOURS, strict=False) if line.label]
    _leave_room(axes, 0.12 * len(named))
    for i, (text, colour) in enumerate(named):
        dark = style.OCHRE if colour == style.YELLOW else colour
        at: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        place = (-3, -9 - 11 * i)
        axes.annotate(text, (1, 1), xytext=place, color=dark, fontsize=7.5, ha="right", **at)


def _leave_room(axes: Axes, share: float) -> None:
    """Raise the top by a share of the height, so that names stand above the curves."""
    scale = axes.yaxis.get_transform()
    low, high = (float(y) for y in scale.transform(np.array(axes.get_ylim())))
    raised = scale.inverted().transform(np.array([high + share * (high - low)]))
    axes.set_ylim(top=float(raised[0]))
