"""Every panel of a figure alone, at the width of a paper's column.

Text keeps its size (7 to 9 points), so the panel is laid out anew and not scaled. There is no
heading: a paper has a caption.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hpc_localsgd.analysis.end_labels import borrow_labels, is_end_label, move_apart
from hpc_localsgd.analysis.panel_names import (
    PanelNames,
    is_colour_bar,
    names_of,
    panels_in,
    same,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

LOW, HIGH = 0.42, 0.66  # height of the axes, beside the width of the figure
PAD_IN = 0.03  # around all of it
CHARACTER_IN = 0.064  # of 8 points, on average


def lone_panels(figure: Figure, width_in: float) -> Iterator[tuple[str, Figure]]:
    """Yield the name of each panel, and the figure while it shows that panel alone.

    The figure is used up: save what is wanted of it before.

    Args:
        figure: The figure, complete.
        width_in: Width in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)  # texts remember the size that they had in another file format
    for text in figure.texts:
        text.set_visible(False)
    panels = panels_in(figure)
    for axes in panels:
        borrow_labels(axes, [other for other in panels if same(axes, other, "rowspan")])
    names = {axes: names_of(figure, axes) for axes in panels}
    heights = {axes: _height_in(figure, axes, width_in) for axes in panels}
    bars = {axes: _colour_bars(figure, axes) for axes in panels}
    for axes in panels:
        for other in figure.axes:
            other.set_visible(other is axes or other in bars[axes])
        _name_axes(axes, names[axes])
        _lay_out(figure, axes, width_in, heights[axes], bars[axes])
        yield names[axes].panel, figure


def _height_in(figure: Figure, axes: Axes, width_in: float) -> float:
    """Return the height for the axes: as in the figure, but neither a strip nor a tower."""
    drawn = axes.get_position().height * figure.get_size_inches()[1]
    return float(min(max(drawn, LOW * width_in), HIGH * width_in))


def _colour_bars(figure: Figure, axes: Axes) -> dict[Axes, tuple[float, float, float, float]]:
    """Return the colour bars of a panel: right edge and foot from its top right corner, and size.

    All in inches; the height is infinite for one beside its panel, which is as high.
    """
    wide, high = figure.get_size_inches()
    ours = axes.get_position()
    found = {}
    for bar in figure.axes:
        if is_colour_bar(bar) and bar._colorbar.mappable.axes is axes:  # type: ignore[attr-defined]
            box = bar.get_position()
            right, foot = (box.x1 - ours.x1) * wide, (box.y0 - ours.y1) * high
            beside = box.x0 > ours.x1
            found[bar] = (right, foot, box.width * wide, math.inf if beside else box.height * high)
    return found


def _name_axes(axes: Axes, names: PanelNames) -> None:
    """Write on the panel what only its neighbours said."""
    axes.tick_params(labelbottom=True, labelleft=True)
    axes.set_xlabel(names.x_label)
    if not axes.get_ylabel() and not axes.get_title("left"):
        axes.set_ylabel(names.y)


def _lay_out(figure: Figure, axes: Axes, width_in: float, height_in: float, bars: Any) -> None:
    """Give the figure its size and the panel its place, so that all its words are inside."""
    for legend in figure.legends:
        _narrow(legend, width_in)
        legend.set_in_layout(False)  # it has its own room, at the foot
    below = max((_extent(legend).y1 / figure.dpi for legend in figure.legends), default=0.0)
    left, right, bottom, top = 0.5, 0.1, 0.4, 0.1
    for attempt in range(3):
        width, height = width_in, bottom + height_in + top
        figure.set_size_inches(width, height)
        inside = (width - left - right, height_in)
        axes.set_position((left / width, bottom / height, inside[0] / width, inside[1] / height))
        for bar, (aside, foot, long, thick) in bars.items():
            thick = min(thick, height_in)
            x, y = width - right + aside - long, bottom + height_in + max(foot, -height_in)
            bar.set_position((x / width, y / height, long / width, thick / height))
        if attempt == 0:
            _fit_words(axes)
        box = figure.get_tightbbox(_renderer(figure))
        left += PAD_IN - box.x0
        right += box.x1 - (width - PAD_IN)
        bottom += PAD_IN + below - box.y0
        top += box.y1 - (height - PAD_IN)
    move_apart(axes)


def _narrow(legend: Legend, width_in: float) -> None:
    """Put a legend at the foot, and break its lines to the width of the figure."""
    legend.set_loc("lower left")
    legend.set_bbox_to_anchor((0, 0))
    for text in legend.get_texts():
        text.set_text(_broken(text.get_text(), width_in - 0.5))


def _extent(artist: Any) -> Any:
    return artist.get_window_extent(_renderer(artist.figure))


def _renderer(figure: Any) -> Any:
    return figure.canvas.get_renderer()


def _broken(text: str, width_in: float) -> str:
    """Break a text of some 8 points into lines."""
    return textwrap.fill(" ".join(text.split()), max(12, int(width_in / CHARACTER_IN)))


def _fit_words(axes: Axes) -> None:
    """Break labels to the panel, leave out notes that are wider, stack a legend that is."""
    width, height = (side / axes.figure.dpi for side in (axes.bbox.width, axes.bbox.height))
    axes.set_xlabel(_broken(axes.get_xlabel(), width + 0.3))
    axes.set_ylabel(_broken(axes.get_ylabel(), height + 0.1))
    axes.set_title(_broken(axes.get_title("left"), width + 0.2), loc="left", fontsize=8.5)
    kept: list[Any] = []
    for text in axes.texts:
        box = _extent(text)
        if is_end_label(axes, text) or _fits(axes, box, kept):
            kept.append(box)
        else:
            text.set_visible(False)
    legend = axes.get_legend()
    if legend and _extent(legend).width > axes.bbox.width:
        _stack(axes, legend, max([axes.bbox.y1, *(box.y1 for box in kept)]))


def _fits(axes: Axes, box: Any, kept: Sequence[Any]) -> bool:
    """Return whether a text is no wider than its panel, and on no other text."""
    return bool(box.width <= axes.bbox.width) and not any(box.overlaps(other) for other in kept)


def _stack(axes: Axes, legend: Legend, foot: float) -> None:
    """Put a legend above its panel and its notes, one entry below the other."""
    handles: Any = legend.legend_handles
    words = [text.get_text() for text in legend.get_texts()]
    above: dict[str, Any] = {"loc": "lower left", "borderpad": 0.2}
    above["bbox_to_anchor"] = (0, (foot - axes.bbox.y0) / axes.bbox.height)
    axes.legend(handles, words, frameon=False, fontsize=8, handlelength=0.9, **above)
