"""What commands write into the folder of a run beside its record: it goes when the run goes.

Figures, pages and curvature of a run that was replaced would pass for those of the new run.
Removed is only what the package itself wrote: names of its own in the folder of a run, and in
`report/`, where a user may keep notes, only files that bear its mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hpc_localsgd.analysis.figures import FIGURES
from hpc_localsgd.analysis.style import MADE_BY

PAGES = "report"  # the folder of `python -m hpc_localsgd report`
MEASURED = ("sharpness.h5", "landscape-*.h5")
SUFFIXES = (".html", ".png", ".pdf")


def remove_results(out: Path) -> None:
    """Remove figures, pages and measured curvature from the folder of a run.

    Raises:
        OSError: One cannot be removed.
    """
    for file in list(_results(out)):
        file.unlink()
    pages = out / PAGES
    if pages.is_dir() and not any(pages.iterdir()):
        pages.rmdir()


def _results(out: Path) -> Iterator[Path]:
    for name in FIGURES:
        yield from (
            file for suffix in ("png", "pdf") if (file := out / f"{name}.{suffix}").exists()
        )
    for pattern in MEASURED:
        yield from out.glob(pattern)
    for file in (out / PAGES).glob("*"):
        if file.suffix in SUFFIXES and file.is_file() and MADE_BY.encode() in file.read_bytes():
            yield file
