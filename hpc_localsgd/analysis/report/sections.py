"""The sections of one run; none where there is nothing to say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from hpc_localsgd.analysis.curves import ACCURACY, TEST_LOSS, TRAIN, is_large
from hpc_localsgd.analysis.draw.accuracy import rows_of
from hpc_localsgd.analysis.draw.course import draw_course
from hpc_localsgd.analysis.draw.landscape import draw_landscape
from hpc_localsgd.analysis.draw.plan import draw_plan
from hpc_localsgd.analysis.draw.sharpness import (
    SNAPSHOT_XI,
    draw_density,
    draw_sharpness,
    radii_of,
    series_of,
)
from hpc_localsgd.analysis.draw.spread import BEFORE
from hpc_localsgd.analysis.draw.time import draw_time
from hpc_localsgd.analysis.draw.timeline import draw_timeline
from hpc_localsgd.analysis.draw.waiting import draw_waiting
from hpc_localsgd.analysis.landscape import Landscape
from hpc_localsgd.analysis.panels import draw_panels, panel_of
from hpc_localsgd.analysis.references import used_by
from hpc_localsgd.analysis.references.used import papers_of
from hpc_localsgd.analysis.report.album import Album
from hpc_localsgd.analysis.report.at_exchanges import (
    XI,
    alpha_section,
    deviations_section,
    is_alpha,
    is_gradient,
    mixing_section,
    spread_section,
)
from hpc_localsgd.analysis.report.blocks import (
    Block,
    Details,
    Grid,
    NamedValues,
    Papers,
    Paragraph,
    Section,
)
from hpc_localsgd.analysis.report.numbers import plan_rows, settings_of
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.analysis.rounding import said, without_rounding
from hpc_localsgd.analysis.waiting import waiting
from hpc_localsgd.cost.formatting import human_seconds
from hpc_localsgd.trajectory import Trajectory, TrajectoryError

DRAWN_ELSEWHERE = (TRAIN, TEST_LOSS, ACCURACY, "spread", BEFORE)


def sections_of(source: Source, album: Album, prefix: str) -> list[Section]:
    """Return all sections on one run.

    Args:
        source: The run.
        album: Draws its figures.
        prefix: Of the names of its figures, empty where there is one run only.
    """
    parts: list[Callable[[Source, Album, str], Section | None]] = [
        _plan,
        _course,
        spread_section,
        mixing_section,
        deviations_section,
        _sharpness,
        alpha_section,
        _landscape,
        _time,
        _others,
        _settings,
        _references,
    ]
    found = (part(source, album, prefix) for part in parts)
    return [section for section in found if section is not None]


def _plan(source: Source, album: Album, prefix: str) -> Section | None:
    rows = plan_rows(source)
    run = source.run
    if not rows and not len(run.rounds):
        return None
    caption = (
        "Pale: the schedule and the rate of the configuration. Dark: the recorded rounds, of whose "
        "learning rate the first step's is recorded."
    )
    if rows and run.K > 1:
        caption += " Planned bytes are the planned rounds at what such rounds were seen to send."
    words = "Learning rate, H and rounds"
    return Section(
        "Plan and what happened",
        Grid(("", "planned", "happened", ""), rows) if rows else None,
        album.add(f"{prefix}plan", lambda: draw_plan(run), words, caption),
    )


def _course(source: Source, album: Album, prefix: str) -> Section:
    run = source.run
    _, title = rows_of(run)
    caption = (
        f"The same values against what they cost. {title} of the test data: the mean model's; "
        "the training loss is that of the workers on their batches, each value pale, their course "
        "strong. Seconds are of training: measuring and checkpoints are not in them."
    )
    words = f"{title} against steps, epochs, bytes and seconds"
    return Section(title, album.add(f"{prefix}course", lambda: draw_course(run), words, caption))


def _sharpness(source: Source, album: Album, prefix: str) -> Section | None:
    run = source.run
    caption = (
        "At the snapshots of the mean model, on a fixed subset of the training data. Bars are "
        "standard errors of the estimates, bands span the workers."
    )
    radii = radii_of(source.sharpness) if source.sharpness else None
    blank = said(without_rounding(series_of(source.files), SNAPSHOT_XI)[1])
    caption = f"{caption} {blank}".rstrip()
    drawn = album.add(
        f"{prefix}sharpness",
        lambda: draw_sharpness(run, source.files),
        "Measures of sharpness at the snapshots",
        f"{caption} {radii.sentence}" if radii else caption,
    )
    density = album.add(
        f"{prefix}density",
        lambda: draw_density(run, source.files),
        "Density of the eigenvalues of the Hessian",
        "By stochastic Lanczos quadrature, smoothed.",
    )
    return Section("Sharpness", drawn, density) if drawn or density else None


def _landscape(source: Source, album: Album, prefix: str) -> Section | None:
    drawn: list[Block | None] = []
    for i, path in enumerate(source.landscapes):
        try:
            found = Landscape.read(path)
        except TrajectoryError as error:
            drawn.append(Paragraph(str(error)))
            continue
        name = f"{prefix}landscape" + (f"-{i + 1}" if i else "")
        draw = partial(draw_landscape, found)
        drawn.append(album.add(name, draw, found.title, found.caption))
    return Section("Landscape", *drawn) if any(drawn) else None


def _time(source: Source, album: Album, prefix: str) -> Section | None:
    run = source.run
    if not len(run.rounds):
        return None
    words = "Seconds of each worker"
    parts: list[Block | None] = [album.add(f"{prefix}time", lambda: draw_time(run), words)]
    words = "Some rounds, a row for each worker"
    parts.append(album.add(f"{prefix}timeline", lambda: draw_timeline(run), words))
    found = waiting(run)
    if len(found.names) > 1:
        parts.append(Paragraph(found.sentence()))
        if np.nansum(found.wait_s) > 0:
            words = "Waiting of each rank along the run"
            parts.append(album.add(f"{prefix}waiting", lambda: draw_waiting(run), words))
            parts += _of_ranks(run)
    return Section("Where the time went", *parts)


def _of_ranks(run: Trajectory) -> list[Block]:
    """Return a table of the seconds of each rank; of many, those that were waited for most."""
    found = waiting(run)
    caused, last = found.caused_s, found.last
    order = np.argsort(-caused, kind="stable")[:12]
    sums = [np.nansum(x, axis=0) for x in (found.compute_s, found.wait_s, found.transfer_s)]
    rows = [
        (
            found.names[i],
            *(human_seconds(float(x[i])) for x in sums),
            f"{100 * (last == i).mean():.0f} %",
            human_seconds(float(caused[i])),
        )
        for i in order
    ]
    header = ("", "computing", "waiting", "transferring", "was last in", "waiting it caused")
    table = Grid(header, rows, best=range(len(found.stragglers())))
    more = len(found.names) - len(rows)
    return [table, Paragraph(f"and {more} more ranks.", quiet=True)] if more > 0 else [table]


def _others(source: Source, album: Album, prefix: str) -> Section | None:
    """Show, plainly, every series that no other section has shown."""
    run = source.run
    names = [name for name in run.names() if _is_other(run, name)]
    if not names:
        return None
    series = [run.series(name) for name in names]
    panels = [panel_of(each) for each in series if each.value.ndim <= 2]  # not tables
    rows = [(name, run.about(name)["units"], run.about(name)["meaning"]) for name in names]
    draw = partial(draw_panels, run, "Other series", panels)
    drawn = [album.add(f"{prefix}series", draw, "Other series of the run")] if panels else []
    return Section("Other series", *drawn, Grid(("", "unit", "meaning"), rows, left=3))


def _settings(source: Source, album: Album, prefix: str) -> Section:
    del album, prefix
    whole = Details("the whole configuration", source.run.config_text)
    return Section("Configuration", NamedValues(settings_of(source)), whole)


def _references(source: Source, album: Album, prefix: str) -> Section:
    del album, prefix
    try:
        used = used_by(*source.files)
    except TrajectoryError as error:
        return Section("References", Paragraph(str(error)))
    papers = papers_of(used)
    for_what = {p: ", ".join(f"{u.option} {u.name}" for u in used if p in u.papers) for p in papers}
    unknown = ", ".join(f"{u.option} {u.name}" for u in used if not u.known)
    bibtex = "\n\n".join(paper.bibtex for paper in papers)
    return Section(
        "References",
        Papers([(paper.text, paper.url, for_what[paper]) for paper in papers]),
        Paragraph(f"No reference is known for {unknown}.", quiet=True) if unknown else None,
        Details("as BibTeX", bibtex) if papers else None,
    )


def _is_other(run: Trajectory, name: str) -> bool:
    shown = name in DRAWN_ELSEWHERE or name.startswith(("sharpness/", XI)) or is_alpha(name)
    beside = is_gradient(name) and any(is_alpha(n) for n in run.names())
    return not (shown or beside or is_large(run, name)) and len(run.series(name)) > 0
