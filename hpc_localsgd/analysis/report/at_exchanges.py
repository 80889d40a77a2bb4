"""The sections on what was measured around exchanges: spread, deviations, gradients."""

from __future__ import annotations

from hpc_localsgd.analysis.curves import is_large
from hpc_localsgd.analysis.draw.mixing import draw_mixing
from hpc_localsgd.analysis.draw.rate import rate_line
from hpc_localsgd.analysis.draw.spread import BEFORE, draw_spread
from hpc_localsgd.analysis.panels import Panel, PanelLine, draw_panels, panel_of, panels_of
from hpc_localsgd.analysis.planned import rate_of
from hpc_localsgd.analysis.recorded_objects import mixing_of
from hpc_localsgd.analysis.report.album import Album
from hpc_localsgd.analysis.report.blocks import Section
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.analysis.rounding import floor_of, said, without_rounding
from hpc_localsgd.trajectory import Series, Trajectory

XI = "xi/"
XI_PANELS = (
    ("eigenvalues of Xi", (("eigenvalues", ""),)),
    (
        "loss of the workers over that of the mean",
        (("gap", "measured"), ("half_trace", "½ tr(H Xi)")),
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
    "gradient/orthogonal_of_samples": "of it, of samples: Delta_S",
    "gradient/orthogonal_of_spread": "of it, of the spread: Delta_2",
    "gradient/noise_trace": "noise: tr Sigma",
    "gradient/signal": "|grad L|^2 without the noise",
    "gradient/noise_scale": "noise scale",
}


def spread_section(source: Source, album: Album, prefix: str) -> Section | None:
    """Show the spread of the workers; return None where it was not recorded."""
    run = source.run
    if run.K == 1 or not {"spread", BEFORE} & set(run.names()):
        return None
    caption = f"Mean squared distance of the workers from their mean. {MOMENT}"
    name, words = f"{prefix}spread", "Spread of the workers"
    return Section(words, album.add(name, lambda: draw_spread(run), words, caption))


def mixing_section(source: Source, album: Album, prefix: str) -> Section | None:
    """Show the graph of gossip and what its mixes left; return None for other algorithms."""
    run, topology = source.run, mixing_of(source.run)
    if topology is None:
        return None
    caption = (
        "Local steps make neighbours alike, so a mix removes less and less of their spread: from "
        "what is expected where the workers' deviations have nothing to do with the graph, towards "
        "the bound ||W - 11^T/K||^2, which is (1 - gap)^2 where W is symmetric."
    )
    words = "Mixing: the topology, and what each mix left of the spread"
    picture = album.add(f"{prefix}mixing", lambda: draw_mixing(run, topology), words, caption)
    return Section("Mixing", picture) if picture else None


def alpha_section(source: Source, album: Album, prefix: str) -> Section | None:
    """Show the effective learning rate; return None where it was not recorded."""
    run = source.run
    panels = alpha_panels(run)
    if not panels:
        return None
    caption = (
        "The part of the mean step along the gradient at the mean model, over its length (Zhang et "
        "al., 2021): far below the learning rate where the workers are far apart. The gradient is "
        "that of a fixed subset, and its noise is taken off; gaps are where nothing was left of it."
    )
    shown = album.add(
        f"{prefix}alpha_e",
        lambda: draw_panels(run, "Effective learning rate", panels),
        "Effective learning rate along the run",
        caption,
    )
    return Section("Effective learning rate", shown)


def alpha_panels(run: Trajectory) -> list[Panel]:
    """Return panels of the effective beside the given learning rate, and of the gradient.

    Series that are not known are called as they are in the file.

    Args:
        run: The run.
    """
    found = [name for name in run.names() if is_alpha(name)]
    if not found:
        return []
    beside = [name for name in run.names() if is_gradient(name) and name not in found]
    given = (_given_rate(run),) if len(run.rounds) else ()
    title = GRADIENT_TITLES.get
    panels = [
        Panel(title(name, name), (PanelLine(run.series(name), "effective"), *given))
        for name in found
    ]
    return [*panels, *(panel_of(run.series(name), title(name, "")) for name in beside)]


def _given_rate(run: Trajectory) -> PanelLine:
    """Return the learning rate at every step; where unknown, at each round's first step."""
    rate = rate_of(run)
    if rate is None:
        first = Series(run.rounds.step_begin, run.rounds.lr, "1", (), "", "lr")
        return PanelLine(first, "learning rate (first steps of rounds)")
    step, lr = rate_line(rate, int(run.rounds.step_end[-1]))
    return PanelLine(Series(step, lr, "1", (), "", "lr"), "learning rate", everywhere=True)


def deviations_section(source: Source, album: Album, prefix: str) -> Section | None:
    """Show what the workers' deviations from their mean say at an exchange."""
    run = source.run
    known = {n: run.series(n) for n in run.names() if n.startswith(XI) and not is_large(run, n)}
    if not known:
        return None
    known, equal = without_rounding(known, XI, floor_of(run))
    caption = (
        f"{MOMENT} Xi is the covariance of the workers about their mean; to second "
        "order their mean loss exceeds that of the mean model by half the trace of H Xi "
        "(Zhu et al., 2023). Bands span the workers. "
    ) + said(equal)
    panels = panels_of(XI_PANELS, known, XI)
    shown = album.add(
        f"{prefix}deviations",
        lambda: draw_panels(run, "Deviations of the workers", panels),
        "What the deviations of the workers say",
        caption,
    )
    return Section("Deviations of the workers", shown)


def is_alpha(name: str) -> bool:
    """Return whether a series is an effective learning rate."""
    return name.rpartition("/")[2] in ALPHA


def is_gradient(name: str) -> bool:
    """Return whether a series is of the probe of gradients."""
    return name.startswith("gradient/")
