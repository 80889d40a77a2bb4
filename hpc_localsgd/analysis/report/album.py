"""The figures of a page: in it as SVG; beside it as files, with their numbers, and for a paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc_localsgd.analysis.figure_files import house_style, save
from hpc_localsgd.analysis.formats import PAPER, USUAL
from hpc_localsgd.analysis.lone_panels import lone_panels
from hpc_localsgd.analysis.own_files import check_ours
from hpc_localsgd.analysis.panel_names import panels_in
from hpc_localsgd.analysis.report.blocks import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_AN_INCH = 98  # on the page, of a screen of usual density
MARGIN_IN = 0.06
PAPER_FORMATS = ("pdf", "svg")


class Album:
    """The figures of a page: drawn once, kept as files beside the page, and embedded in it.

    Attributes:
        files: What was written, in order.
    """

    def __init__(
        self, folder: Path, formats: Sequence[str] = USUAL, width_in: float | None = None
    ) -> None:
        """Begin an album.

        Args:
            folder: Where the files go; it exists.
            formats: Of the files beside the page, of `formats.FORMATS`; ``csv`` has the numbers.
            width_in: Width in inches of the single panels that a paper takes, written as PDF and
                SVG into the folder ``paper``. Default: none.
        """
        self._folder, self._formats, self._width_in = folder, formats, width_in
        self.files: list[Path] = []

    def add(
        self, name: str, draw: Callable[[], Figure | None], words: str = "", caption: str = ""
    ) -> Picture | None:
        """Draw a figure and return it for the page; return None if there was nothing to draw.

        The caller's matplotlib is left as it was.

        Args:
            name: Of the files, without suffix.
            draw: Makes the figure, with its heading.
            words: What it shows, for who cannot see it.
            caption: Below it.
        """
        with house_style(name) as parameters:
            figure = draw()
            if figure is None:
                return None
            for suffix in self._formats:
                self._write(figure, name, suffix)
            # Reproducible, and readable where the font is missing.
            parameters.update({"svg.fonttype": "path"})
            picture = Picture(*_svg(figure), words, caption)
            parameters.update({"svg.fonttype": "none"})
            if self._width_in:
                self._write_panels(figure, name, self._width_in)
            return picture

    def _write_panels(self, figure: Figure, name: str, width_in: float) -> None:
        """Write each panel of a figure alone, for a paper."""
        (self._folder / PAPER).mkdir(exist_ok=True)
        several = len(panels_in(figure)) > 1
        for panel, alone in lone_panels(figure, width_in):
            for suffix in PAPER_FORMATS:
                self._write(alone, f"{PAPER}/{name}" + (f"-{panel}" if several else ""), suffix)

    def _write(self, figure: Figure, name: str, suffix: str) -> None:
        self.files.append(self._folder / f"{name}.{suffix}")
        check_ours(self.files[-1])
        save(figure, self.files[-1])


def _svg(figure: Figure) -> tuple[str, int]:
    """Return the figure as a data URI, and its width; without its heading, which a page has."""
    from matplotlib.transforms import Bbox

    for text in figure.texts[:2]:
        text.set_visible(False)
    width, height = figure.get_size_inches()
    stream = io.BytesIO()
    used = figure.get_tightbbox()
    page = Bbox([(0, max(0.0, used.y0 - MARGIN_IN)), (width, min(height, used.y1 + MARGIN_IN))])
    metadata: Any = {"Date": None}
    figure.savefig(stream, format="svg", bbox_inches=page, metadata=metadata)
    uri = "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
    return uri, round(width * PIXELS_AN_INCH)
