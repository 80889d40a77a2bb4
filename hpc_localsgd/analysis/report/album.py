"""The figures of a page: in it as SVG, beside it as PNG and PDF."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.report.blocks import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_AN_INCH = 98  # on the page, of a screen of usual density
MARGIN_IN = 0.06
_METADATA: dict[str, Any] = {
    "png": {"Software": style.MADE_BY},
    "pdf": {"Creator": style.MADE_BY, "CreationDate": None},
}


class Album:
    """The figures of a page: drawn once, kept as files beside the page, and embedded in it.

    Attributes:
        files: What was written, in order.
    """

    def __init__(self, folder: Path, formats: tuple[str, ...] = ("png", "pdf")) -> None:
        """Begin an album.

        Args:
            folder: Where the files go; it exists.
            formats: Of the files beside the page.
        """
        self._folder, self._formats = folder, formats
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
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            parameters: Any = matplotlib.rcParams
            parameters.update(style.RC)
            # Reproducible, and readable where the font is missing.
            parameters.update({"svg.hashsalt": name, "svg.fonttype": "path"})
            figure = draw()
            if figure is None:
                return None
            for suffix in self._formats:
                self.files.append(self._folder / f"{name}.{suffix}")
                figure.savefig(self.files[-1], metadata=_METADATA.get(suffix))
            return Picture(*_svg(figure), words, caption)


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
