"""A comparison for a page, and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hpc_localsgd.analysis.compare.courses import recorded
from hpc_localsgd.analysis.compare.draw import draw_front
from hpc_localsgd.analysis.compare.draw_courses import draw_courses
from hpc_localsgd.analysis.compare.draw_flatness import draw_flatness
from hpc_localsgd.analysis.compare.export import HEADS, as_csv, as_latex, as_markdown
from hpc_localsgd.analysis.compare.groups import SeedGroup, grouped_runs
from hpc_localsgd.analysis.compare.measures import SENT, TALKED
from hpc_localsgd.analysis.compare.tables import Tables, tables
from hpc_localsgd.analysis.compare.two_way import two_way
from hpc_localsgd.analysis.costs import AXES
from hpc_localsgd.analysis.formats import USUAL
from hpc_localsgd.analysis.own_files import put_ours, put_table
from hpc_localsgd.analysis.report.album import Album
from hpc_localsgd.analysis.report.blocks import Block, Grid, NamedValues, Paragraph, Section
from hpc_localsgd.analysis.report.render import render
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.analysis.text_tables import text_table, wrapped

FILE_NAME = "compare.html"


def comparison(groups: Sequence[SeedGroup], made: Tables, album: Album) -> list[Section]:
    """Return the part of a page that compares runs.

    Args:
        groups: The runs.
        made: Their tables.
        album: Draws its figures.
    """
    header, rows = made.differing
    notes = [Paragraph(note, quiet=True) for note in made.notes]
    parts = [
        Section("What differs", Grid(header, rows, left=len(header))),
        Section("Results", Grid(*made.measured), *notes),
    ]
    crossed = [
        block
        for each in two_way(groups)
        for block in (
            Paragraph(f"{each.measure}, by {each.across}"),
            Grid(each.header, each.rows, left=each.options),
        )
    ]
    if crossed:
        parts.append(Section("Two ways", *crossed))
    caption = (
        "On the pale line: nothing cheaper here is as good, to within the bars. A configuration "
        "has the same symbol in both panels; bars are deviations over seeds, or the statistical "
        "error of the test set where that is larger."
    )
    words = "Accuracy against bytes and seconds"
    picture = album.add("front", lambda: draw_front(groups), words, caption)
    if picture:
        fronts = [Paragraph(line) for line in front_lines(made)]
        parts.append(Section("Accuracy against communication", picture, *fronts))
    flatness = album.add(
        "flatness", lambda: draw_flatness(groups), "Test loss against sharpness", _FLATNESS
    )
    if flatness:
        parts.append(Section("Flatness and test loss", flatness))
    courses = _courses(groups, album)
    return [*parts, Section("In the course of the runs", *courses)] if courses else parts


def _courses(groups: Sequence[SeedGroup], album: Album) -> list[Block]:
    """Draw the runs overlaid, against each axis there is."""
    parts: list[Block] = []
    shown = recorded(groups)
    for axis in AXES:
        draw = partial(draw_courses, groups, shown, axis)
        words = f"Loss, accuracy and what else was recorded, against {axis.name}"
        picture = album.add(f"courses_{axis.name}", draw, words, "" if parts else _COURSES)
        if picture:
            parts.append(picture)
    return parts


_FLATNESS = (
    "Sharpness and test loss of the mean model at the end of each run (pale dots), and means over "
    "the seeds of a configuration. What a rank correlation over all runs says depends on what else "
    "differs between them."
)
_COURSES = (
    "A configuration has one colour and one symbol everywhere. A value is drawn where all its "
    "seeds have one; bands are one standard deviation over seeds, and on a logarithmic axis as "
    "far below the mean as above it. Bytes are those of the mean worker, seconds those of the "
    "slowest, both means over seeds."
)


def write_comparison(
    sources: Sequence[Source],
    folder: Path,
    formats: Sequence[str] = USUAL,
    width_in: float | None = None,
) -> list[Path]:
    """Write ``compare.html`` and, beside it, its figures and tables; return the files.

    Args:
        sources: The runs.
        folder: Where the files go; made if missing.
        formats: Of the figures beside the page; may be empty.
        width_in: Of single panels for a paper, in inches; None for none.

    Raises:
        TrajectoryError: A configuration cannot be read.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    album, groups = Album(folder, formats, width_in), grouped_runs(sources)
    made = tables(groups)
    runs = Section("Runs", NamedValues([(g.letter, _names(g)) for g in groups]))
    compared = [*comparison(groups, made, album), runs]
    page = folder / FILE_NAME
    text = render("compare.html", title="Comparison", count=len(sources), compared=compared)
    with put_ours(page) as unborn:
        unborn.write_text(text, encoding="utf-8")
    return [page, *album.files, *_write_tables(groups, made, folder)]


def _write_tables(groups: Sequence[SeedGroup], made: Tables, folder: Path) -> list[Path]:
    texts = {"csv": as_csv(groups, made), "md": as_markdown(made), "tex": as_latex(made)}
    files = []
    for suffix, text in texts.items():
        files.append(folder / f"compare.{suffix}")
        put_table(files[-1], text, HEADS[suffix])
    return files


def terminal(sources: Sequence[Source], width: int | None = None) -> str:
    """Format the tables as text.

    Args:
        sources: The runs.
        width: Characters of a line; None for no limit.

    Raises:
        TrajectoryError: A configuration cannot be read.
    """
    groups = grouped_runs(sources)
    made = tables(groups)
    header, rows = made.differing
    parts = [text_table(header, rows, width=width, left=len(header))]
    parts.append(text_table(*made.measured, width=width))
    return "\n\n".join([*parts, "\n".join(wrapped([*front_lines(made), *made.notes], width))])


_COSTS = {SENT.name: "bytes sent by a worker", TALKED.name: "seconds of communication"}


def front_lines(made: Tables) -> list[str]:
    """Describe the Pareto fronts in words."""
    return [
        f"Pareto front of accuracy against {_COSTS[cost]}: {', '.join(letters)}"
        for cost, letters in made.fronts.items()
        if letters
    ]


def _names(group: SeedGroup) -> str:
    return ", ".join(f"{source.name} (seed {source.run.attrs['seed']})" for source in group.runs)
