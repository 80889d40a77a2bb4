"""Sharpness along a run: what `python -m hpc_localsgd sharpness` found, or a probe measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.panels import Line, Panel, draw_panels, panel_of
from hpc_localsgd.trajectory import Series, Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFIX = "sharpness/"

# Title of a panel -> names in it (behind `sharpness/`) with their labels.
PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("largest eigenvalues of the Hessian", (("eigenvalues", ""),)),
    ("trace of the Hessian", (("trace", ""),)),
    ("loss on the subset", (("loss", ""),)),
    (
        "rise of the loss in a direction",
        (("average_direction", "average"), ("worst_direction", "worst (SAM)")),
    ),
    (
        "loss of the workers over that of the mean",
        (("xi_gap", "measured"), ("xi_half_trace", "½ tr(H Ξ)"), ("xi_smoothed", "E, N(0, Ξ)")),
    ),
    ("spread at the snapshots, tr Ξ", (("xi_trace", ""),)),
)
QUIET = ("_error", "residuals", "trace_probes", "density_nodes", "density_weights")


def draw_sharpness(run: Trajectory, sources: Sequence[Trajectory]) -> Figure | None:
    """Panels of every measure of sharpness there is; None if there is none.

    Args:
        run: The run.
        sources: Files to look in: the run itself, and the file of its sharpness.
    """
    found = series_of(sources)
    panels = list(_panels(found))
    return draw_panels(run, "Sharpness of the loss", panels) if panels else None


def series_of(sources: Sequence[Trajectory]) -> dict[str, Series]:
    """Series of sharpness by their name behind the prefix; of several files the last counts.

    Args:
        sources: Files to look in.
    """
    found = {}
    for source in sources:
        for name in source.names():
            large = "parameter" in source.about(name)["dims"].split()  # vectors of the model
            if name.startswith(PREFIX) and not large and len(series := source.series(name)):
                found[name.removeprefix(PREFIX)] = series
    return found


def draw_density(run: Trajectory, sources: Sequence[Trajectory]) -> Figure | None:
    """Density of the Hessian's eigenvalues at the last snapshot; None if it was not asked for.

    Smoothed with Gaussians of 1 % of the range, as the estimator (stochastic Lanczos quadrature)
    knows no finer.

    Args:
        run: The run.
        sources: Files to look in.
    """
    found = series_of(sources)
    if not {"density_nodes", "density_weights"} <= set(found):
        return None
    nodes, weights = (found[f"density_{part}"] for part in ("nodes", "weights"))
    figure = style.sheet(9.6, 3.4, "Density of the eigenvalues of the Hessian", run)
    axes = figure.add_subplot()
    margins = style.frame(figure, 0.85, 0.35, 1.0, 0.6)
    figure.subplots_adjust(**margins)
    for i, colour in ((0, style.YELLOW), (len(nodes) - 1, style.BLUE)):
        grid, density = smoothed(nodes.value[i], weights.value[i])
        axes.plot(grid, density, color=colour, linewidth=1.3, label=f"step {nodes.step[i]:,}")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-6)
    axes.set_xlabel("eigenvalue")
    axes.set_ylabel("share of eigenvalues per unit")
    axes.legend(frameon=False, fontsize=8)
    return figure


def smoothed(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quadrature nodes and weights ``[probes, n]`` as a density on a grid. It integrates to 1.

    Args:
        nodes: Ritz values of each probe.
        weights: Their shares; each probe's sum to 1.
    """
    low, high = float(np.nanmin(nodes)), float(np.nanmax(nodes))
    width = 0.01 * max(high - low, 1e-12)
    grid = np.linspace(low - 5 * width, high + 5 * width, 800)
    apart = (grid[:, None] - nodes.ravel()) / width
    bells = np.exp(-0.5 * apart**2) / (width * np.sqrt(2 * np.pi))
    return grid, bells @ np.nan_to_num(weights.ravel()) / len(nodes)


def _panels(found: dict[str, Series]) -> Iterator[Panel]:
    known = set()
    for title, names in PANELS:
        known |= {name for name, _ in names}
        lines = tuple(
            Line(found[name], label, found.get(f"{name}_error"))
            for name, label in names
            if name in found
        )
        if lines:
            yield Panel(title, lines)
    for name, series in found.items():
        plain: Any = name not in known and not name.endswith(QUIET)
        if plain:
            yield panel_of(series)
