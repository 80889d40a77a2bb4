"""The page of one or several runs, put together and written."""

from __future__ import annotations

from html import escape
from pathlib import Path

from hpc_localsgd.analysis.draw_slow_sde import (
    Measured,
    draw_slow_sde,
    measured,
    overlaid,
    told,
    tried,
)
from hpc_localsgd.analysis.report import html
from hpc_localsgd.analysis.report.album import Album
from hpc_localsgd.analysis.report.sections import sections_of
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.analysis.style import MADE_BY

FILE_NAME = "report.html"
AGAIN_S = 60  # between two readings of a record that grows


def write_report(
    sources: list[Source], folder: Path, formats: tuple[str, ...] = ("png", "pdf")
) -> list[Path]:
    """Write ``report.html`` and the figures in it as files beside it.

    Args:
        sources: The runs.
        folder: Where the files go; made if missing. Existing ones are replaced.
        formats: Of the figures beside the page; may be empty.

    Returns:
        The files, the page first.

    Raises:
        TrajectoryError: A part of a file cannot be read.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    album = Album(folder, formats)
    parts = [_overview(sources, album)] if len(sources) > 1 else []
    for i, source in enumerate(sources):
        prefix = f"{i + 1}-" if len(sources) > 1 else ""
        sections = sections_of(source, album, prefix)
        listed = html.contents(sections) if len(sources) == 1 else ""
        if len(sources) > 1:  # an anchor is of one run
            sections = sections.replace('<h2 id="', f'<h2 id="run-{i + 1}-')
        parts.append(_title(source, f"run-{i + 1}") + listed + sections)
    title = sources[0].name if len(sources) == 1 else f"{len(sources)} runs"
    version = sources[0].run.attrs.get("package_version", "")
    foot = f"<footer>{MADE_BY} {escape(str(version))} from the record alone.</footer>"
    page = folder / FILE_NAME
    again_s = AGAIN_S if any(source.run.status == "running" for source in sources) else 0
    page.write_text(html.document(title, "\n".join([*parts, foot]), again_s), encoding="utf-8")
    return [page, *album.files]


def _title(source: Source, anchor: str) -> str:
    run, a = source.run, source.run.attrs
    status = f"<span class='status {escape(run.status)}'>{escape(run.status)}</span>"
    what = f"{a['algorithm']}, {a['schedule']} on {a['task']}, {run.K} workers"
    words = f"<p class=quiet>{escape(what)}</p>"
    return f"<h1 id={anchor}>{escape(source.name)} {status}</h1>{words}"


def _overview(sources: list[Source], album: Album) -> str:
    """Show, above several runs, where each lies and how they compare."""
    from hpc_localsgd.analysis.compare.groups import grouped_runs
    from hpc_localsgd.analysis.compare.page import comparison
    from hpc_localsgd.analysis.compare.tables import tables

    groups = grouped_runs(sources)
    listed = "".join(
        f"<li><a href='#run-{i + 1}'>{escape(source.name)}</a></li>"
        for i, source in enumerate(sources)
    )
    head = f"<h1>{len(sources)} runs</h1><ol>{listed}</ol>"
    return head + comparison(groups, tables(groups), album) + _theory(sources, album)


def _theory(sources: list[Source], album: Album) -> str:
    """Show the decay of tr H against the Slow SDE; return "" where too little was measured."""
    tries = {s.name: tried(s.name, s.run, s.sharpness) for s in sources}
    found = measured([(s.name, s.run, s.sharpness) for s in sources])
    picture = album.add("slow_sde", lambda: draw_slow_sde(found)) if found else None
    drawn = {m.name for m in overlaid(found)} if picture else set()
    reasons = _reasons(tries, found, drawn)
    if not picture:
        said = "".join(html.paragraph(f"Not predicted: {line}") for line in reasons)
        return html.heading("Sharpness and the Slow SDE") + said if said else ""
    caption = (
        f"Dots: measured. Lines: the path of {found[0].name} at the speed that the Slow SDE (Gu et "
        "al., 2023) gives each run from its K, H and learning rates. Assumed are minimisers "
        "close by, noise like that of labels, and eigenvalues that shrink in proportion. A line "
        "ends where its run would go beyond what was followed."
    )
    if reasons:
        caption += " Left out: " + " ".join(reasons)
    words = "Decay of the trace of the Hessian, measured and predicted"
    return html.heading("Sharpness and the Slow SDE") + html.picture(picture, words, caption)


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
