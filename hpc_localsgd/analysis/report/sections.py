"""The sections of one run, each HTML; empty where there is nothing to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.blank import floor_of, said, without_rounding
from hpc_localsgd.analysis.draw_accuracy import rows_of
from hpc_localsgd.analysis.draw_course import draw_course
from hpc_localsgd.analysis.draw_landscape import draw_landscape
from hpc_localsgd.analysis.draw_plan import draw_plan
from hpc_localsgd.analysis.draw_rate import rate_line
from hpc_localsgd.analysis.draw_sharpness import (
    SNAPSHOT_XI,
    draw_density,
    draw_sharpness,
    radii_of,
    series_of,
)
from hpc_localsgd.analysis.draw_spread import BEFORE, draw_spread
from hpc_localsgd.analysis.draw_time import draw_time
from hpc_localsgd.analysis.draw_waiting import draw_waiting
from hpc_localsgd.analysis.landscape import Landscape
from hpc_localsgd.analysis.panels import Line, Panel, draw_panels, panel_of, panels_of
from hpc_localsgd.analysis.planned import rate_of
from hpc_localsgd.analysis.references import used_by
from hpc_localsgd.analysis.references.used import papers_of
from hpc_localsgd.analysis.report import html
from hpc_localsgd.analysis.report.album import Album
from hpc_localsgd.analysis.report.missing import notes_on
from hpc_localsgd.analysis.report.numbers import plan_rows, settings_of, tiles_of
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.analysis.waiting import waiting
from hpc_localsgd.trajectory import Series, Trajectory, TrajectoryError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN_ELSEWHERE = ("train/loss", "eval/test/loss", "eval/test/accuracy", "spread", BEFORE)
XI = "xi/"
XI_PANELS = (
    ("eigenvalues of Xi", (("eigenvalues", ""),)),
    (
        "mean loss of the workers over that of the mean",
        (("gap", "measured"), ("half_trace", "½ tr(H Ξ)")),
    ),
    ("curvature along each deviation", (("curvature", ""),)),
    ("loss at the exchange", (("worker_loss", "workers"), ("mean_loss", "mean model"))),
    ("tr Xi", (("trace", ""),)),
)
MOMENT = (
    "Before an exchange that makes all workers equal; after one that does not, where the next "
    "gradients are taken."
)
ALPHA = ("alpha_e", "effective_rate", "effective_lr")  # Zhang's effective learning rate

GRADIENT_TITLES = {
    "gradient/effective_lr": "effective learning rate",
    "gradient/norm": "gradient norm",
    "gradient/orthogonal": "step across the gradient, squared",
    "gradient/noise_trace": "noise: tr Sigma",
    "gradient/signal": "|grad L|^2 without the noise",
    "gradient/noise_scale": "noise scale",
}


def sections_of(source: Source, album: Album, prefix: str) -> str:
    """Everything on one run.

    Args:
        source: The run.
        album: Draws its figures.
        prefix: Of the names of its figures, empty where there is one run only.
    """
    parts: list[Callable[[Source, Album, str], str]] = [
        _head,
        _plan,
        _course,
        _spread,
        _deviations,
        _sharpness,
        _alpha,
        _landscape,
        _time,
        _others,
        _settings,
        _references,
    ]
    return "\n".join(filter(None, (part(source, album, prefix) for part in parts)))


def _head(source: Source, album: Album, prefix: str) -> str:
    del album, prefix
    return html.tiles(tiles_of(source)) + html.notes(notes_on(source))


def _plan(source: Source, album: Album, prefix: str) -> str:
    rows = plan_rows(source)
    run = source.run
    if not rows and not len(run.rounds):
        return ""
    header = ("", "planned", "happened", "")
    body = html.table(header, rows) if rows else ""
    caption = (
        "Pale: the schedule and the rate of the configuration. Dark: the recorded rounds, of whose "
        "learning rate the first step's is recorded."
    )
    if rows and run.K > 1:
        caption += " Planned bytes are the planned rounds at what such rounds were seen to send."
    return (
        html.heading("Plan and what happened")
        + body
        + _figure(
            album,
            f"{prefix}plan",
            lambda: draw_plan(run),
            "Learning rate, H and exchanges",
            caption,
        )
    )


def _course(source: Source, album: Album, prefix: str) -> str:
    run = source.run
    _, title = rows_of(run)
    caption = (
        f"The same values against what they cost. {title} of the test data: the mean model's; "
        "the training loss is that of the workers on their batches, each value pale, their course "
        "strong. Seconds are of training: measuring and checkpoints are not in them."
    )
    words = f"{title} against steps, epochs, bytes and seconds"
    return html.heading(title) + _figure(
        album, f"{prefix}course", lambda: draw_course(run), words, caption
    )


def _spread(source: Source, album: Album, prefix: str) -> str:
    run = source.run
    if run.K == 1 or not {"spread", BEFORE} & set(run.names()):
        return ""
    caption = f"Mean squared distance of the workers from their mean. {MOMENT}"
    return html.heading("Spread of the workers") + _figure(
        album, f"{prefix}spread", lambda: draw_spread(run), "Spread of the workers", caption
    )


def _sharpness(source: Source, album: Album, prefix: str) -> str:
    run = source.run
    caption = (
        "At the snapshots of the mean model, on a fixed subset of the training data. Bars are "
        "standard errors of the estimates."
    )
    radii = radii_of(source.sharpness) if source.sharpness else None
    blank = said(without_rounding(series_of(source.files), SNAPSHOT_XI)[1])
    caption = f"{caption} {blank}".rstrip()
    drawn = _figure(
        album,
        f"{prefix}sharpness",
        lambda: draw_sharpness(run, source.files),
        "Measures of sharpness at the snapshots",
        f"{caption} {radii.sentence}" if radii else caption,
    )
    density = _figure(
        album,
        f"{prefix}density",
        lambda: draw_density(run, source.files),
        "Density of the eigenvalues of the Hessian",
        "By stochastic Lanczos quadrature, smoothed.",
    )
    return html.heading("Sharpness") + drawn + density if drawn or density else ""


def _alpha(source: Source, album: Album, prefix: str) -> str:
    run = source.run
    panels = alpha_panels(run)
    if not panels:
        return ""
    caption = (
        "The part of the mean step along the gradient at the mean model, over its length (Zhang et "
        "al., 2021): far below the learning rate where the workers are far apart. The gradient is "
        "that of a fixed subset, and its noise is taken off; gaps are where nothing was left of it."
    )
    return html.heading("Effective learning rate") + _figure(
        album,
        f"{prefix}alpha_e",
        lambda: draw_panels(run, "Effective learning rate", panels),
        "Effective learning rate along the run",
        caption,
    )


def alpha_panels(run: Trajectory) -> list[Panel]:
    """The effective learning rate beside the given one, and what else is known of the gradient.

    Series that are not known are called as they are in the file.

    Args:
        run: The run.
    """
    found = [name for name in run.names() if _is_alpha(name)]
    if not found:
        return []
    beside = [name for name in run.names() if _is_gradient(name) and name not in found]
    given = (_given_rate(run),) if len(run.rounds) else ()
    title = GRADIENT_TITLES.get
    panels = [
        Panel(title(name, name), (Line(run.series(name), "effective"), *given)) for name in found
    ]
    return [*panels, *(panel_of(run.series(name), title(name, "")) for name in beside)]


def _given_rate(run: Trajectory) -> Line:
    """The learning rate at every step; where that is not known, at each round's first."""
    rate = rate_of(run)
    if rate is None:
        first = Series(run.rounds.step_begin, run.rounds.lr, "1", (), "", "lr")
        return Line(first, "learning rate (first steps of rounds)")
    step, lr = rate_line(rate, int(run.rounds.step_end[-1]))
    return Line(Series(step, lr, "1", (), "", "lr"), "learning rate", everywhere=True)


def _deviations(source: Source, album: Album, prefix: str) -> str:
    """What the workers' deviations from their mean say at an exchange."""
    run = source.run
    known = {n: run.series(n) for n in run.names() if n.startswith(XI) and not _is_large(run, n)}
    if not known:
        return ""
    known, equal = without_rounding(known, XI, floor_of(run))
    caption = (
        f"{MOMENT} Xi is the covariance of the workers about their mean; to second "
        "order their mean loss exceeds that of the mean model by half the trace of H Xi "
        "(Zhu et al., 2023). Bands span the workers. "
    ) + said(equal)
    panels = panels_of(XI_PANELS, known, XI)
    return html.heading("Deviations of the workers") + _figure(
        album,
        f"{prefix}deviations",
        lambda: draw_panels(run, "Deviations of the workers", panels),
        "What the deviations of the workers say",
        caption,
    )


def _landscape(source: Source, album: Album, prefix: str) -> str:
    drawn = ""
    for i, path in enumerate(source.landscapes):
        try:
            found = Landscape.read(path)
        except TrajectoryError as error:
            drawn += html.paragraph(str(error))
            continue
        name = f"{prefix}landscape" + (f"-{i + 1}" if i else "")
        drawn += _figure(album, name, lambda f=found: draw_landscape(f), found.title, found.caption)  # type: ignore[misc]
    return html.heading("Landscape") + drawn if drawn else ""


def _time(source: Source, album: Album, prefix: str) -> str:
    run = source.run
    if not len(run.rounds):
        return ""
    parts = [html.heading("Where the time went")]
    parts.append(_figure(album, f"{prefix}time", lambda: draw_time(run), "Seconds of each worker"))
    found = waiting(run)
    if len(found.names) > 1:
        parts.append(html.paragraph(found.sentence()))
        if np.nansum(found.wait_s) > 0:
            words = "Waiting of each rank along the run"
            drawn = _figure(album, f"{prefix}waiting", lambda: draw_waiting(run), words)
            parts += [drawn, _rank_table(run)]
    return "\n".join(parts)


def _rank_table(run: Trajectory) -> str:
    """Seconds of each rank; of many, those that were waited for most."""
    found = waiting(run)
    caused, last = found.caused_s, found.last
    order = np.argsort(-caused, kind="stable")[:12]
    sums = [np.nansum(x, axis=0) for x in (found.compute_s, found.wait_s, found.transfer_s)]
    rows = [
        (
            found.names[i],
            *(style.duration(float(x[i])) for x in sums),
            f"{100 * (last == i).mean():.0f} %",
            style.duration(float(caused[i])),
        )
        for i in order
    ]
    header = ("", "computing", "waiting", "transferring", "was last in", "waiting it caused")
    more = len(found.names) - len(rows)
    tail = html.paragraph(f"and {more} more ranks.", quiet=True) if more > 0 else ""
    return html.table(header, rows, best=range(len(found.stragglers()))) + tail


def _others(source: Source, album: Album, prefix: str) -> str:
    """Every series that no other section has shown, plainly."""
    run = source.run
    names = [name for name in run.names() if _is_other(run, name)]
    if not names:
        return ""
    panels = [panel_of(run.series(name)) for name in names]
    rows = [(name, run.about(name)["units"], run.about(name)["meaning"]) for name in names]
    drawn = _figure(
        album,
        f"{prefix}series",
        lambda: draw_panels(run, "Other series", panels),
        "Other series of the run",
    )
    return html.heading("Other series") + drawn + html.table(("", "unit", "meaning"), rows, left=3)


def _settings(source: Source, album: Album, prefix: str) -> str:
    del album, prefix
    whole = html.details("the whole configuration", source.run.config_text)
    return html.heading("Configuration") + html.facts(settings_of(source)) + whole


def _references(source: Source, album: Album, prefix: str) -> str:
    del album, prefix
    try:
        used = used_by(*source.files)
    except TrajectoryError as error:
        return html.heading("References") + html.paragraph(str(error))
    papers = papers_of(used)
    for_what = {p: [f"{u.option} {u.name}" for u in used if p in u.papers] for p in papers}
    listed = []
    for paper in papers:
        link = f' <a href="{paper.url}">{paper.url}</a>' if paper.url else ""
        what = html.inline(", ".join(for_what[paper]))
        listed.append(f"<li>{html.inline(paper.text)}{link} <span class=quiet>({what})</span></li>")
    unknown = [f"{u.option} {u.name}" for u in used if not u.known]
    strange = f"No reference is known for {', '.join(unknown)}." if unknown else ""
    bibtex = "\n\n".join(paper.bibtex for paper in papers)
    return (
        html.heading("References")
        + f"<ol class=papers>{''.join(listed)}</ol>"
        + (html.paragraph(strange, quiet=True) if strange else "")
        + (html.details("as BibTeX", bibtex) if papers else "")
    )


def _is_alpha(name: str) -> bool:
    return name.rpartition("/")[2] in ALPHA


def _is_gradient(name: str) -> bool:
    return name.startswith("gradient/")


def _is_large(run: Trajectory, name: str) -> bool:
    """Vectors as long as the model are not for a page."""
    return "parameter" in run.about(name)["dims"].split()


def _is_other(run: Trajectory, name: str) -> bool:
    shown = name in DRAWN_ELSEWHERE or name.startswith(("sharpness/", XI)) or _is_alpha(name)
    beside = _is_gradient(name) and any(_is_alpha(n) for n in run.names())
    return not (shown or beside or _is_large(run, name)) and len(run.series(name)) > 0


def _figure(
    album: Album,
    name: str,
    draw: Callable[[], Figure | None],
    words: str,
    caption: str = "",
) -> str:
    source = album.add(name, draw)
    return html.picture(source, words, caption) if source else ""
