"""Test loss against sharpness, both at the end of the runs: are flatter minima the better ones?

A pale dot is a run, a symbol the mean over the seeds of a configuration, with one standard
deviation on each side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.analysis import style
from hpc_localsgd.analysis.compare.groups import SeedGroup
from hpc_localsgd.analysis.compare.legend import look_of, sheet_of_panels
from hpc_localsgd.analysis.compare.measures import SHARPEST, TEST_LOSS, TRACE, Measure
from hpc_localsgd.analysis.figure_data import keep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 5  # runs without which nothing is said of a rank correlation


def draw_flatness(groups: Sequence[SeedGroup]) -> Figure | None:
    """Draw a panel for the largest eigenvalue and one for the trace, where runs have them.

    Args:
        groups: At least one.

    Returns:
        None where fewer than two runs have a test loss and a sharpness.
    """
    found = {of: [points(group, of) for group in groups] for of in (SHARPEST, TRACE)}
    shown = {of: each for of, each in found.items() if sum(len(p) for p in each) > 1}
    if not shown:
        return None
    facts = [f"{len(groups)} configurations", "at the end of the runs"]
    title = "Test loss against sharpness"
    figure, panels = sheet_of_panels(groups, len(shown), title, facts)
    for axes, (measure, each) in zip(panels, shown.items(), strict=True):
        _draw_panel(axes, measure, each, groups)
    panels[0].set_ylabel("test loss of the mean model")
    return figure


def points(group: SeedGroup, of: Measure) -> np.ndarray:
    """Return sharpness and test loss of the runs of a group that have both, ``[runs, 2]``."""
    pairs = [(of.of(source), TEST_LOSS.of(source)) for source in group.counted]
    known = [pair for pair in pairs if all(map(math.isfinite, pair))]
    return np.array(known, dtype=float).reshape(-1, 2)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's correlation of two ``[n]``; NaN where one of them does not vary.

    Source: C. Spearman, Am. J. Psychol. 15 (1904) 72-101; ties have their mean rank.
    """
    from scipy.stats import spearmanr

    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        return math.nan
    return float(spearmanr(x, y).statistic)


def _draw_panel(
    axes: Axes, of: Measure, each: Sequence[np.ndarray], groups: Sequence[SeedGroup]
) -> None:
    for i, (group, at) in enumerate(zip(groups, each, strict=True)):
        if len(at):
            _draw_group(axes, group.letter, at, look_of(i))
    x, y = np.concatenate(each).T
    _scale(axes.set_xscale, axes.set_xlim, x)
    _scale(axes.set_yscale, axes.set_ylim, y)
    axes.set_xlabel(f"{of.name} of the Hessian" if of is SHARPEST else of.name)
    correlation = rank_correlation(x, y)
    if len(x) >= FEW and math.isfinite(correlation):
        words = f"rank correlation {correlation:+.2f}, {len(x)} runs"
        axes.set_title(words, loc="right", fontsize=8, color=style.GREY)


def _draw_group(axes: Axes, letter: str, at: np.ndarray, look: dict[str, Any]) -> None:
    x, y = at.mean(axis=0)
    if len(at) > 1:
        dots: dict[str, Any] = {"linestyle": "none", "marker": ".", "color": look["color"]}
        axes.plot(*at.T, alpha=0.35, markersize=5, markeredgewidth=0, zorder=2, **dots)
        keep(axes, f"{letter}, runs", *at.T)
    off = at.std(axis=0, ddof=1) if len(at) > 1 else np.zeros(2)
    bars: dict[str, Any] = {"xerr": off[0] or None, "yerr": off[1] or None, "capsize": 2}
    axes.errorbar(x, y, linestyle="none", elinewidth=0.9, markersize=5, zorder=3, **bars, **look)
    keep(axes, f"{letter}, mean", x, y, y - off[1], y + off[1])


def _scale(scale: Any, limit: Any, values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    room = 0.15 * max(high - low, 0.05 * abs(high), 1e-12)
    style.fit(scale, limit, (low, high), room, factors=True)
