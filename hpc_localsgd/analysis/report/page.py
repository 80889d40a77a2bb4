"""The page of one or several runs, put together and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpc_localsgd.analysis.draw.slow_sde import (
    Measured,
    draw_slow_sde,
    measured,
    overlaid,
    told,
    tried,
)
from hpc_localsgd.analysis.formats import USUAL
from hpc_localsgd.analysis.own_files import put_ours
from hpc_localsgd.analysis.report.album import Album
from hpc_localsgd.analysis.report.blocks import Paragraph, Section
from hpc_localsgd.analysis.report.missing import notes_on
from hpc_localsgd.analysis.report.numbers import tiles_of
from hpc_localsgd.analysis.report.render import render
from hpc_localsgd.analysis.report.sections import sections_of
from hpc_localsgd.analysis.report.source import Source

FILE_NAME = "report.html"
AGAIN_S = 60  # between two readings of a record that grows


@dataclass(frozen=True)
class OneRun:
    """What a page says of one run.

    Attributes:
        name: The run.
        status: How it ended.
        what: What ran, in a line.
        tiles: (number, words) of the most important facts.
        notes: What a reader should see first.
        sections: The rest.
    """

    name: str
    status: str
    what: str
    tiles: Sequence[tuple[str, str]]
    notes: Sequence[str]
    sections: Sequence[Section]


def write_report(
    sources: list[Source],
    folder: Path,
    formats: Sequence[str] = USUAL,
    width_in: float | None = None,
) -> list[Path]:
    """Write ``report.html`` and the figures in it as files beside it.

    Args:
        sources: The runs.
        folder: Where the files go; made if missing. Existing ones are replaced.
        formats: Of the figures beside the page; may be empty.
        width_in: Of single panels for a paper, in inches; None for none.

    Returns:
        The files, the page first.

    Raises:
        TrajectoryError: A part of a file cannot be read.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    album, several = Album(folder, formats, width_in), len(sources) > 1
    compared = _compared(sources, album) if several else []
    prefixes = [f"{i + 1}-" if several else "" for i in range(len(sources))]
    text = render(
        "report.html",
        title=f"{len(sources)} runs" if several else sources[0].name,
        again_s=AGAIN_S if any(source.run.status == "running" for source in sources) else 0,
        compared=compared,
        runs=[_one(source, album, p) for source, p in zip(sources, prefixes, strict=True)],
        version=sources[0].run.attrs.get("package_version", ""),
    )
    page = folder / FILE_NAME
    with put_ours(page) as unborn:
        unborn.write_text(text, encoding="utf-8")
    return [page, *album.files]


def _one(source: Source, album: Album, prefix: str) -> OneRun:
    run, a = source.run, source.run.attrs
    return OneRun(
        name=source.name,
        status=run.status,
        what=f"{a['algorithm']}, {a['schedule']} on {a['task']}, {run.K} workers",
        tiles=tiles_of(source),
        notes=notes_on(source),
        sections=sections_of(source, album, prefix),
    )


def _compared(sources: list[Source], album: Album) -> list[Section]:
    """Show, above several runs, how they compare."""
    from hpc_localsgd.analysis.compare.groups import grouped_runs
    from hpc_localsgd.analysis.compare.page import comparison
    from hpc_localsgd.analysis.compare.tables import tables

    groups = grouped_runs(sources)
    found = comparison(groups, tables(groups), album)
    theory = _theory(sources, album)
    return [*found, theory] if theory else found


def _theory(sources: list[Source], album: Album) -> Section | None:
    """Show the decay of tr H against the Slow SDE; return None where too little was measured."""
    tries = {s.name: tried(s.name, s.run, s.sharpness) for s in sources}
    found = measured([(s.name, s.run, s.sharpness) for s in sources])
    picture = album.add("slow_sde", lambda: draw_slow_sde(found)) if found else None
    drawn = {m.name for m in overlaid(found)} if picture else set()
    reasons = _reasons(tries, found, drawn)
    title = "Sharpness and the Slow SDE"
    if not picture:
        said = [Paragraph(f"Not predicted: {line}") for line in reasons]
        return Section(title, *said) if said else None
    caption = (
        f"Dots: measured. Lines: the path of {found[0].name} at the speed that the Slow SDE (Gu et "
        "al., 2023) gives each run from its K, H and learning rates. Assumed are minimisers "
        "close by, noise like that of labels, and eigenvalues that shrink in proportion. A line "
        "ends where its run would go beyond what was followed."
    )
    if reasons:
        caption += " Left out: " + " ".join(reasons)
    words = "Decay of the trace of the Hessian, measured and predicted"
    return Section(title, replace(picture, words=words, caption=caption))


def _reasons(tries: dict[str, Measured | str], found: list[Measured], drawn: set[str]) -> list[str]:
    """Say, a sentence each, why runs whose sharpness was measured have no line."""
    said = []
    for name, tried_one in tries.items():
        if name in drawn or tried_one == "":
            continue
        if isinstance(tried_one, str):
            said.append(f"{name}: {tried_one}.")
            continue
        predicted = told(tried_one, found[0])
        if isinstance(predicted, str):
            said.append(f"{name}: {predicted}.")
        elif len(found) > 1:
            said.append(f"{name}: it and {found[0].name} did not begin at one place of one task.")
    return said
