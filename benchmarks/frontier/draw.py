"""The figure: accuracy of the mean model against bytes, and on each network against seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from frontier.labels import Labels
from frontier.points import SENT, TALKED, TOTAL, Point, on_front

from hpc_localsgd.analysis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

YELLOW, GREEN = "#a87a10", "#3d7d5a"
FAMILIES = (  # what an algorithm's legend begins with, and its colour
    ("AllReduce", style.INK),
    ("Gossip", YELLOW),
    ("D2", YELLOW),
    ("GradientTracking", YELLOW),
    ("SlowMo", style.RED),
    ("DiLoCo", style.RED),
    ("StreamingDiLoCo", style.RED),
    ("CoCoD", GREEN),
    ("Overlap", GREEN),
)
MARKERS = "osD^vPX<>phd*8"
NAMES = {SENT: "sent by a worker", TALKED: "communicating", TOTAL: "training"}
Looks = dict[str, dict[str, Any]]


def draw(networks: Mapping[str, Sequence[Point]], facts: Sequence[str], floor: float) -> Figure:
    """Draw a row a network: communicating and training; bytes and the legend on their left.

    Args:
        networks: Name of a network -> the methods on it, the same ones everywhere.
        facts: What there is to say about the runs, each a few words.
        floor: Accuracy below which methods stand at the lower edge, hollow, with their number.
    """
    rows = max(2, len(networks))
    height = 0.95 + 2.75 * rows
    figure = style.titled_sheet(10.6, height, "Accuracy against communication", facts)
    margins = style.frame(figure, 0.75, 0.25, 0.95, 0.55)
    grid: dict[str, Any] = {**margins, "wspace": 0.08, "hspace": 0.34}
    panels = figure.subplots(rows, 3, sharey=True, squeeze=False, gridspec_kw=grid)
    first = next(iter(networks.values()))
    looks, labels = looks_of(first), list[Labels]()
    _panel(panels[0, 0], first, SENT, looks, floor, labels)
    for row, (name, points) in enumerate(networks.items()):
        for column, cost in ((1, TALKED), (2, TOTAL)):
            _panel(panels[row, column], points, cost, looks, floor, labels, name)
    _legend(panels[1, 0], first, looks, floor)
    for axes in panels[1:, 1]:  # the legend has the place of the numbers' panel
        axes.tick_params(labelleft=True)
    for axes in panels[len(networks) :, 1:].flat:
        axes.set_visible(False)
    panels[0, 0].set_ylabel("test accuracy of the mean model")
    _limits(panels[0, 0], first, floor)
    for each in labels:  # where the axes are is known now
        each.write()
    return figure


def looks_of(points: Sequence[Point]) -> Looks:
    """Give each method the colour of its family and a marker of its own in it.

    Args:
        points: The methods.
    """
    taken: dict[str, int] = {}
    looks: Looks = {}
    for p in points:
        colour = next((c for name, c in FAMILIES if p.algorithm.startswith(name)), style.BLUE)
        n = taken[colour] = taken.get(colour, -1) + 1
        looks[p.label] = {"color": colour, "marker": MARKERS[n % len(MARKERS)]}
    return looks


def _panel(
    axes: Axes,
    points: Sequence[Point],
    cost: int,
    looks: Looks,
    floor: float,
    labels: list[Labels],
    network: str = "",
) -> None:
    x = np.array([p.costs[cost].mean for p in points])
    y = np.array([max(p.accuracy.mean, floor) for p in points])
    best = on_front(points, cost)
    edge, height = [*x[best], 10 * x.max()], np.maximum.accumulate([*y[best], y[best[-1]]])
    pale: dict[str, Any] = {
        "color": "#d5d8de",
        "linewidth": 5,
        "zorder": 1,
        "solid_joinstyle": "miter",
    }
    axes.plot(edge, height, drawstyle="steps-post", **pale)
    for i, p in enumerate(points):
        low = p.accuracy.mean < floor
        bars = {"yerr": None if low else p.off or None, "xerr": _bar(p.costs[cost].deviation)}
        look = {**looks[p.label], **({"markerfacecolor": "white"} if low else {})}
        drawn = axes.errorbar(
            x[i],
            y[i],
            linestyle="none",
            elinewidth=0.8,
            capsize=1.6,
            markersize=5,
            zorder=3,
            **bars,
            **look,
        )
        drawn.lines[0].set_clip_on(False)
    off = np.array([0.0 if p.accuracy.mean < floor else p.off for p in points])
    heights = y + off * np.linspace(-1, 1, 9)[:, None]  # along the bars, too
    obstacles = np.column_stack([np.tile(x, 9), heights.ravel()])
    named = [(float(x[i]), float(y[i]), points[i].label, looks[points[i].label]) for i in best]
    for i in np.flatnonzero([p.accuracy.mean < floor for p in points]).tolist():
        number = f"{100 * points[i].accuracy.mean:.0f} %"
        named.append((float(x[i]), float(y[i]), number, looks[points[i].label]))
    labels.append(Labels(axes, named, obstacles))
    _scale(axes, x, cost, network)


def floor_of(points: Sequence[Point]) -> float:
    """Give the accuracy below which methods stand at the lower edge: a tenth below the best.

    Args:
        points: The methods.
    """
    known = [p.accuracy.mean for p in points if np.isfinite(p.accuracy.mean)]
    lowest = max(known) - 0.1
    return lowest if min(known) < lowest else 0.0


def _scale(axes: Axes, x: np.ndarray, cost: int, network: str) -> None:
    """Scale an axis, logarithmic where costs span more than a factor of three; plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    unit = style.byte_unit if cost == SENT else style.time_unit
    size, name = unit(float(np.median(x)))
    low, high = float(x.min()), float(x.max())
    if high > 3 * low:
        room, decades = (high / low) ** 0.07, np.log10(high / low)
        axes.set_xscale("log")
        axes.set_xlim(low / room, high * room)
        subs = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.07 * (high - low) or 0.1 * high
        axes.set_xlim(low - room, high + room)
        ticks = np.asarray(MaxNLocator(6).tick_values(low / size, high / size)) * size
        axes.set_xticks(ticks[(ticks >= low - room) & (ticks <= high + room)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:,.4g}"))
    axes.set_xlabel(f"{NAMES[cost]}, {name}", labelpad=2)
    if network:
        axes.set_title(network, loc="left", fontsize=9, color=style.INK, pad=5)


def _limits(axes: Axes, points: Sequence[Point], floor: float) -> None:
    high = max(p.accuracy.mean + p.off for p in points)
    low = max(floor, min(p.accuracy.mean - p.off for p in points))
    room = 0.08 * (high - low)
    axes.set_ylim(low - room, high + 2.5 * room)
    style.in_percent(axes)


def _legend(axes: Axes, points: Sequence[Point], looks: Looks, floor: float) -> None:
    """Write the name of every method, in the place of a panel."""
    from matplotlib.lines import Line2D

    axes.set_axis_off()
    handles = [Line2D([], [], linestyle="none", markersize=5, **looks[p.label]) for p in points]
    handles.append(Line2D([], [], color="#d5d8de", linewidth=5))
    names = [*(p.label for p in points), "nothing cheaper is as good"]
    if any(p.accuracy.mean < floor for p in points):
        hollow = {"marker": "o", "color": style.GREY, "markerfacecolor": "white"}
        handles.append(Line2D([], [], linestyle="none", markersize=5, **hollow))
        names.append("hollow: below the axis")
    axes.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(-0.16, 1.06),
        ncols=2 if len(names) > 14 else 1,
        fontsize=6.9,
        frameon=False,
        handletextpad=0.3,
        columnspacing=0.9,
        labelspacing=0.38,
        borderpad=0,
    )


def _bar(deviation: float) -> float | None:
    return deviation if deviation > 0 else None
