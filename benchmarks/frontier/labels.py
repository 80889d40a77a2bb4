"""Names beside points, where nothing else is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDES = (
    (5, -3),
    (7, -9),
    (7, 6),
    (-7, 6),
    (-7, -9),
    (7, -20),
    (-7, 17),
    (7, 17),
    (-7, -20),
    (7, 28),
)
CLEAR = 4.0  # pixels around a label
NEAR = 9  # points above or below its symbol; a name that is further off has a line to it


@dataclass(frozen=True)
class Labels:
    """Names of points in a panel; one for which there is no room is left to the legend.

    Attributes:
        axes: The panel.
        named: Where each stands, its name, and the look of its symbol.
        obstacles: ``[n, 2]`` points in the panel that no name may cover.
    """

    axes: Axes
    named: Sequence[tuple[float, float, str, dict[str, Any]]]
    obstacles: np.ndarray

    def write(self) -> None:
        """Write the names, once the panel has its final limits."""
        taken: list[Any] = []
        for x, y, label, look in self.named:
            place: dict[str, Any] = {"textcoords": "offset points", "color": look["color"]}
            text = self.axes.annotate(label, (x, y), xytext=SIDES[0], fontsize=7, zorder=4, **place)
            for side in SIDES:
                text.set_position(side)
                text.set_horizontalalignment("left" if side[0] > 0 else "right")
                box = text.get_window_extent()
                if self._is_free(box, taken):
                    taken.append(box)
                    self._lead(x, y, side, look["color"])
                    break
            else:
                text.remove()

    def _lead(self, x: float, y: float, side: tuple[int, int], colour: str) -> None:
        """Draw a line from a symbol to a name that is not right beside it."""
        if abs(side[1]) <= NEAR:
            return
        place, dpi = self.axes.transData, self.axes.get_figure(root=True).dpi
        end = place.inverted().transform(place.transform((x, y)) + np.array(side) * dpi / 72)
        look: dict[str, Any] = {"color": colour, "linewidth": 0.5, "zorder": 2}
        self.axes.plot([x, end[0]], [y, end[1]], scalex=False, scaley=False, **look)

    def _is_free(self, box: Any, taken: Sequence[Any]) -> bool:
        pixels, frame = self.axes.transData.transform(self.obstacles), self.axes.bbox
        low, high = np.array([box.x0, box.y0]) - CLEAR, np.array([box.x1, box.y1]) + CLEAR
        hit = ((pixels > low) & (pixels < high)).all(axis=1).any()
        inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
        return bool(inside and not hit and not any(box.overlaps(other) for other in taken))
