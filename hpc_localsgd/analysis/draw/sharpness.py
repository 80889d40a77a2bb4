"""Sharpness along a run: what `python -m hpc_localsgd sharpness` found, or a probe measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.curves import is_large
from hpc_localsgd.analysis.figure_data import keep
from hpc_localsgd.analysis.panels import draw_panels, panels_of
from hpc_localsgd.analysis.rounding import floor_of, without_rounding
from hpc_localsgd.trajectory import Series, Trajectory, TrajectoryError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFIX = "sharpness/"
SNAPSHOT_XI = "snapshot_xi_"
WORKERS = "workers/eigenvalues"  # [n, K, k]: a page shows the largest of each worker


@dataclass(frozen=True)
class Radii:
    """Lengths of the two directions in which the rise of the loss was measured.

    Attributes:
        sigma: Of each parameter, in the average direction.
        rho: Of the whole step, along the gradient.
        P: Number of parameters.
    """

    sigma: float
    rho: float
    P: int

    @property
    def sentence(self) -> str:
        """Why the two rises are not to be compared with each other."""
        length = self.sigma * math.sqrt(self.P)
        return (
            f"The average direction goes sigma = {self.sigma:g} in each parameter, about "
            f"{length:.2g} in all, the one along the gradient rho = {self.rho:g} in all: "
            "different radii, not to be compared."
        )


# Title of a panel -> names in it (after `sharpness/`) with their labels.
PANELS = (
    ("largest eigenvalues of the Hessian", (("eigenvalues", ""),)),
    ("trace of the Hessian", (("trace", ""),)),
    ("loss on the subset", (("loss", ""),)),
    (
        "rise of the loss in a direction",
        (
            ("average_direction", "average{sigma}"),
            ("worst_direction", "along the gradient (SAM){rho}"),
        ),
    ),
    (
        "loss of the workers over that of the mean",
        (
            ("snapshot_xi_gap", "measured"),
            ("snapshot_xi_half_trace", "½ tr(H Xi)"),
            ("snapshot_xi_smoothed", "mean over N(0, Xi)"),
        ),
    ),
    ("spread at the snapshots, tr Xi", (("snapshot_xi_trace", ""),)),
    ("eigenvalues of Xi", (("snapshot_xi_eigenvalues", ""),)),
    ("curvature along each deviation", (("snapshot_xi_curvature", ""),)),
    ("largest eigenvalue at the workers' own models", ((WORKERS, ""),)),
    ("trace at the workers' own models", (("workers/trace", ""),)),
)


def draw_sharpness(run: Trajectory, sources: Sequence[Trajectory]) -> Figure | None:
    """Draw panels of every measure of sharpness there is; return None if there is none.

    Args:
        run: The run.
        sources: Files to look in: the run itself, and the file of its sharpness.
    """
    radii = next(filter(None, map(radii_of, reversed(sources))), None)
    far = {"sigma": f", σ = {radii.sigma:g}", "rho": f", ρ = {radii.rho:g}"} if radii else {}
    found = series_of(sources)
    own = found.get(WORKERS)
    if own is not None and own.value.ndim == 3:
        found[WORKERS] = replace(own, value=own.value[:, :, 0], dims=own.dims[:1])
    panels = panels_of(_labelled(far), found)
    return draw_panels(run, "Sharpness of the loss", panels) if panels else None


def radii_of(source: Trajectory) -> Radii | None:
    """Read the radii from the settings in a file; return None where it has none.

    Args:
        source: A file of sharpness, or any other trajectory.
    """
    try:
        said = source.config.get("sharpness") or {}
        return Radii(float(said["sigma"]), float(said["rho"]), source.P)
    except (TrajectoryError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _labelled(far: dict[str, str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return `PANELS` with the radii in their labels, or without where they are unknown."""
    words = {"sigma": "", "rho": "", **far}
    return [
        (title, [(name, label.format(**words)) for name, label in names]) for title, names in PANELS
    ]


def series_of(sources: Sequence[Trajectory]) -> dict[str, Series]:
    """Return the series of sharpness by name without prefix; of several files the last counts.

    Deviations of workers that are equal are NaN, see `rounding`.

    Args:
        sources: Files to look in.
    """
    found: dict[str, Series] = {}
    for source in sources:
        for name in source.names():
            small = name.startswith(PREFIX) and not is_large(source, name)
            if small and len(series := source.series(name)):
                found[name.removeprefix(PREFIX)] = series
        found, _ = without_rounding(found, SNAPSHOT_XI, floor_of(source))
    return found


def draw_density(run: Trajectory, sources: Sequence[Trajectory]) -> Figure | None:
    """Draw the spectral density of the Hessian at the last snapshot; return None if not measured.

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
        keep(axes, f"step {nodes.step[i]}", grid, density)
    axes.set_yscale("log")
    axes.set_ylim(1e-3 / (nodes.value.max() - nodes.value.min() + 1e-12))
    axes.set_xlabel("eigenvalue")
    axes.set_ylabel("share of eigenvalues per unit")
    axes.legend(frameon=False, fontsize=8)
    return figure


def smoothed(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of a quadrature ``[probes, n]`` as a density that integrates to 1.

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
