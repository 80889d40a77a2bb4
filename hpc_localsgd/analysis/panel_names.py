"""What the axes of a panel are called, also where only a neighbour says so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BASE = {
    **dict.fromkeys(("TB", "GB", "MB", "kB"), "bytes"),
    **dict.fromkeys(("hours", "minutes", "milliseconds"), "seconds"),
}


@dataclass(frozen=True)
class PanelNames:
    """Names of a panel and of its axes.

    Attributes:
        panel: What is shown, unique in the figure and fit for a file name.
        x: Of the abscissa, in seconds or bytes where it is of either.
        y: Of the ordinate, or the panel's title where it has none.
        x_label: The label of the abscissa as it is drawn, in the unit of its ticks.
    """

    panel: str
    x: str
    y: str
    x_label: str


def panels_in(figure: Figure) -> list[Axes]:
    """Return the panels of a figure: its axes, but for colour bars and for those switched off."""
    return [a for a in figure.axes if a.axison and a.get_visible() and not is_colour_bar(a)]


def is_colour_bar(axes: Axes) -> bool:
    """Return whether the axes are the scale of another panel's colours."""
    return hasattr(axes, "_colorbar")


def names_of(figure: Figure, axes: Axes) -> PanelNames:
    """Return the names of a panel and of its axes.

    Args:
        figure: The figure, complete.
        axes: One of its panels.
    """
    panels = panels_in(figure)
    plain = {a: _plain_names(panels, a) for a in [*panels, axes]}
    x, y, label = plain[axes]
    several = len({names[0] for names in plain.values()}) > 1
    parts = {a: _slug(f"{b} {a_x}" if several else b) for a, (a_x, b, _) in plain.items()}
    alike = [a for a in panels if parts[a] == parts[axes]]
    number = f"-{alike.index(axes) + 1}" if len(alike) > 1 and axes in alike else ""
    return PanelNames(parts[axes] + number, x, y, label)


def _plain_names(panels: Sequence[Axes], axes: Axes) -> tuple[str, str, str]:
    """Return the names of abscissa and ordinate, and the former's label."""
    below = [a for a in panels if same(axes, a, "colspan")]
    beside = [a for a in panels if same(axes, a, "rowspan")]
    label = _first([axes.get_xlabel(), *(a.get_xlabel() for a in reversed(below))])
    y = _first([axes.get_ylabel(), axes.get_title("left"), *(a.get_ylabel() for a in beside)])
    return _in_base_unit(label), " ".join(y.split()), label


def same(a: Axes, b: Axes, span: str) -> bool:
    """Return whether two panels stand in one column or row of the figure."""
    ours, theirs = a.get_subplotspec(), b.get_subplotspec()
    return ours is not None and theirs is not None and getattr(ours, span) == getattr(theirs, span)


def _first(texts: Sequence[str]) -> str:
    return next((text for text in texts if text), "")


def _in_base_unit(label: str) -> str:
    unit, _, rest = label.partition(" ")
    return f"{_BASE.get(unit, unit)} {rest}".strip()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "panel"
