"""The look of every figure: one type size, three colours, thin grey axes, words beside the lines.

Colours are Paul Tol's high-contrast set: told apart by every reader, and in a grey print.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hpc_localsgd.trajectory import Trajectory

BLUE, YELLOW, RED = "#004488", "#DDAA33", "#BB5566"
OCHRE = "#a87a10"  # in the place of yellow for words and thin lines, which it leaves pale
MADE_BY = "Made by hpc_localsgd"  # in every page and every figure beside one
INK, GREY, PALE = "#20242b", "#666c76", "#e6e8ec"  # grey text: 5.3 to 1 on white

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures look alike everywhere
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": GREY,
    "axes.edgecolor": "#b4b8bf",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "xtick.color": "#b4b8bf",
    "ytick.color": "#b4b8bf",
    "xtick.labelcolor": GREY,
    "ytick.labelcolor": GREY,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "ytick.minor.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "figure.facecolor": "white",
    "figure.dpi": 160,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,  # text stays text
}

_DOWN_IN, _LEFT_IN = 0.30, 0.62  # where the title stands


def sheet(width_in: float, height_in: float, title: str, run: Trajectory) -> Figure:
    """Make an empty figure with its heading: what it shows, and of which run.

    Args:
        width_in: Width in inches.
        height_in: Height in inches; the heading takes the first 0.75.
        title: What the figure shows.
        run: The run.
    """
    facts = [f"K = {run.K}"] + ([] if run.status == "complete" else [run.status])
    facts += [str(run.attrs[name]) for name in ("task", "algorithm", "schedule")]
    return titled_sheet(width_in, height_in, title, facts)


def titled_sheet(width_in: float, height_in: float, title: str, facts: Sequence[str]) -> Figure:
    """Make an empty figure with its heading and a line of facts below it.

    Args:
        width_in: Width in inches.
        height_in: Height in inches; the heading takes the first 0.75.
        title: What the figure shows.
        facts: What there is to say about it, each a few words.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in))
    x, y = _LEFT_IN / width_in, 1 - _DOWN_IN / height_in
    figure.text(x, y, title, fontsize=12.5, fontweight="bold", va="center")
    line = textwrap.shorten(" · ".join(facts), int(width_in * 13), placeholder=" …")
    figure.text(x, y - 0.24 / height_in, line, color=GREY, va="center")
    return figure


def frame(figure: Figure, left: float, right: float, top: float, bottom: float) -> dict[str, float]:
    """Convert margins in inches to the fractions that matplotlib's grid wants.

    Args:
        figure: The figure.
        left: Left margin in inches; the others also.
        right: Right margin, where line labels stand.
        top: Top margin, heading included.
        bottom: Bottom margin.
    """
    width, height = figure.get_size_inches()
    return {
        "left": left / width,
        "right": 1 - right / width,
        "top": 1 - top / height,
        "bottom": bottom / height,
    }


def panel(figure: Figure, left: float, right: float, top: float, bottom: float) -> Axes:
    """Add the only panel of a figure, within margins in inches as for `frame`.

    Args:
        figure: The figure.
        left: Left margin; the others likewise.
        right: Right margin.
        top: Top margin, heading included.
        bottom: Bottom margin.
    """
    at = frame(figure, left, right, top, bottom)
    box = (at["left"], at["bottom"], at["right"] - at["left"], at["top"] - at["bottom"])
    return figure.add_axes(box)


def title(axes: Axes, text: str) -> None:
    """Write above a panel, quietly, what it shows.

    Args:
        axes: The panel.
        text: A few words.
    """
    axes.set_title(text, loc="left", fontsize=8.5, color=GREY)


def note(axes: Axes, text: str) -> None:
    """Say quietly why a panel is empty.

    Args:
        axes: The panel.
        text: Why.
    """
    at: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, text, color=GREY, bbox={"color": "white"}, **at)
    axes.set_yticks([])
    axes.grid(False)


def clip_sideways(axes: Axes, artists: Sequence[Artist]) -> None:
    """Let dots at the first and last step be whole, but cut what lies above or below.

    Args:
        axes: The panel.
        artists: Lines and dots in it.
    """
    from matplotlib.transforms import Bbox, TransformedBbox

    for artist in artists:
        artist.set_clip_path(None)
        artist.set_clip_box(TransformedBbox(Bbox([(-0.02, 0), (1.02, 1.02)]), axes.transAxes))


def step_axis(axes: Axes, last: int, label: bool = True) -> None:
    """Label global steps from 0 to the end of the run, whole numbers with separators.

    Args:
        axes: The panel.
        last: Last step.
        label: Whether the axis is named and its numbers are shown.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, max(1, last))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.tick_params(labelbottom=label)
    if label:
        axes.set_xlabel("global step")


def in_percent(axes: Axes) -> None:
    """Write the numbers of the ordinate, which are shares, in percent.

    Args:
        axes: The panel.
    """
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.4g} %"))


def fit(scale: Any, limit: Any, ends: tuple[float, float], room: float, factors: bool) -> None:
    """Scale an axis to values with room around them; by factors where they are 15 times apart.

    Args:
        scale: `axes.set_xscale` or `axes.set_yscale`.
        limit: `axes.set_xlim` or `axes.set_ylim`.
        ends: The least and the largest value.
        room: On each side of a linear axis, which does not go below 0 for it.
        factors: Whether a logarithmic axis is allowed.
    """
    low, high = ends
    if factors and low > 0 and high > 15 * low:
        scale("log")
        limit(low / 1.4, high * 1.4)
    else:
        limit(max(0.0, low - room) if low >= 0 else low - room, high + room)


def seconds_axis(axes: Axes, longest_s: float) -> None:
    """Label seconds from 0 to `longest_s`, with ticks at round numbers of a fitting unit.

    Args:
        axes: The panel, whose x is in seconds.
        longest_s: The largest duration shown.
    """
    _axis_in_units(axes, longest_s, time_unit(longest_s)[0], intervals=6)


def bytes_axis(axes: Axes, most: float) -> None:
    """Label bytes from 0 to `most`, with ticks at round numbers of a fitting unit.

    Args:
        axes: The panel, whose x is in bytes.
        most: The largest number shown.
    """
    _axis_in_units(axes, most, byte_unit(most)[0], intervals=5)


def _axis_in_units(axes: Axes, most: float, size: float, intervals: int) -> None:
    """Label from 0 to `most`, with at most so many intervals between ticks of one unit."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ticks = np.asarray(MaxNLocator(intervals).tick_values(0, most / size)) * size
    axes.set_xlim(0, most)
    axes.set_xticks(ticks[(ticks >= 0) & (ticks <= 1.0001 * most)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / size:g}"))


def clock(source: str) -> str:
    """Return what is said of seconds of training: of a simulated run the computing is measured.

    Args:
        source: ``measured`` or ``modelled``, as in the record.
    """
    return "communication modelled" if source == "modelled" else source


def byte_unit(most: float) -> tuple[float, str]:
    """Return the unit that fits best: (bytes in it, its name).

    Args:
        most: The largest number shown.
    """
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if most >= size:
            return size, name
    return 1.0, "bytes"


def time_unit(seconds: float) -> tuple[float, str]:
    """Return the unit that fits best: (seconds in it, its name).

    Args:
        seconds: The largest duration shown.
    """
    for size, name, above in ((3600.0, "hours", 7200), (60.0, "minutes", 300), (1.0, "seconds", 1)):
        if seconds >= above:
            return size, name
    return 1e-3, "milliseconds"
