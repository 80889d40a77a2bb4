"""What commands write into the folder of a run beside its record: it goes when the run goes.

Figures, pages and curvature of a run that was replaced would pass for those of the new run.
Removed is only what the package itself wrote: names of its own in the folder of a run, and in
`report/`, where a user may keep notes, only files that bear its mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from hpc_localsgd.analysis.figure_data import HEADER
from hpc_localsgd.analysis.figures import FIGURES
from hpc_localsgd.analysis.formats import PAPER
from hpc_localsgd.analysis.style import MADE_BY

PAGES = "report"  # the folder of `python -m hpc_localsgd report`
MADE = ("model.safetensors", "sharpness.h5", "landscape-*.h5")
DRAWN = (".html", ".png", ".pdf", ".svg")


def remove_results(out: Path) -> None:
    """Remove the model, figures, pages and measured curvature from the folder of a run.

    Raises:
        OSError: One cannot be removed.
    """
    for file in list(_results(out)):
        file.unlink()
    for pages in (out / PAGES / PAPER, out / PAGES):
        if pages.is_dir() and not any(pages.iterdir()):
            pages.rmdir()


def _results(out: Path) -> Iterator[Path]:
    for name in FIGURES:
        yield from (
            file for suffix in ("png", "pdf") if (file := out / f"{name}.{suffix}").exists()
        )
    for pattern in MADE:
        yield from out.glob(pattern)
    drawn = [out.glob("landscape-*"), (out / PAGES).glob("*"), (out / PAGES / PAPER).glob("*")]
    yield from (file for file in chain(*drawn) if file.is_file() and _ours(file))


def _ours(file: Path) -> bool:
    """Return whether a file bears the mark of a figure or page, or the heads of its numbers."""
    if file.suffix == ".csv":
        with file.open("rb") as data:
            return data.readline(200) == f"{','.join(HEADER)}\n".encode()
    if file.suffix == ".json":
        with file.open("rb") as data:
            return MADE_BY.encode() in data.read(2000)
    return file.suffix in DRAWN and MADE_BY.encode() in file.read_bytes()
