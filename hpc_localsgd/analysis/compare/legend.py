"""Which configuration has which symbol, colour and letter, the same in every figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.compare.groups import SeedGroup, differences

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX<>p"
COLOURS = (style.BLUE, style.RED, style.OCHRE, style.INK)
LINE_IN = 0.22  # height of a line of the legend


def look_of(i: int) -> dict[str, Any]:
    """Return the marker and colour of a group, the same wherever it is drawn.

    Args:
        i: Which group.
    """
    return {"marker": MARKERS[i % len(MARKERS)], "color": COLOURS[i % len(COLOURS)]}


def sheet_of_panels(
    groups: Sequence[SeedGroup], n: int, title: str, facts: Sequence[str]
) -> tuple[Figure, list[Axes]]:
    """Make a figure of one panel, or of two beside each other with one ordinate, and its legend.

    Args:
        groups: The configurations, each a symbol.
        n: 1 or 2.
        title: What the figure shows.
        facts: What there is to say about it, each a few words.
    """
    legend = LINE_IN * len(groups)
    figure = style.titled_sheet(9.6 if n == 2 else 5.6, 4.0 + legend, title, facts)
    margins = style.frame(figure, 0.75, 0.35, 1.0, 0.65 + legend)
    grid: dict[str, Any] = {**margins, "wspace": 0.12}
    panels = figure.subplots(1, n, sharey=True, squeeze=False, gridspec_kw=grid)[0]
    draw_legend(figure, groups, lines=False)
    return figure, list(panels)


def draw_legend(figure: Figure, groups: Sequence[SeedGroup], lines: bool) -> None:
    """Draw a line a configuration at the foot: its symbol, its letter, and what sets it apart.

    Args:
        figure: The figure, with `LINE_IN` of room for each at its foot.
        groups: The configurations.
        lines: Whether a group is drawn as a line.
    """
    from matplotlib.lines import Line2D

    apart = differences(groups)
    handles, labels = [], []
    for i, group in enumerate(groups):
        look = {"linewidth": 1.2} if lines else {"linestyle": "none"}
        handles.append(Line2D([], [], markersize=4, **look, **look_of(i)))
        said = ", ".join(_told(name, values[i]) for name, values in apart.items() if values[i])
        labels.append(f"{group.letter}   {said or group.runs[0].name}   ({group.standing})")
    at: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.05, 0.01), "frameon": False}
    figure.legend(handles, labels, fontsize=8, labelspacing=0.35, handlelength=2.4, **at)


def _told(name: str, value: str) -> str:
    """Return ``every(steps=8)`` as it is, a bare ``8`` after the name of its option."""
    return value if "(" in value else f"{name} {value}"
