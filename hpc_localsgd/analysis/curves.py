"""Numbers made ready for drawing: one finite value a step, no more than a page can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from hpc_localsgd.trajectory import Series, Trajectory

TRAIN, TEST_LOSS, ACCURACY = "train/loss", "eval/test/loss", "eval/test/accuracy"
PIXELS = 700
"""Bins across a panel: about one for two pixels, so nothing that could be seen is lost."""


@dataclass(frozen=True)
class Curve:
    """A line to draw, with the range of its values where points were merged.

    Attributes:
        x: ``[n]`` positions.
        y: ``[n]`` values, the median of a bin.
        low: ``[n]`` least value of a bin, equal to `y` when nothing was put together.
        high: ``[n]`` greatest value of a bin.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


def series_or_none(run: Trajectory, name: str) -> Series | None:
    """Read a series as one finite value a step (the mean over other axes); None if it has none.

    Args:
        run: The run.
        name: Name of the series.
    """
    if name not in run.names():
        return None
    found = run.series(name)
    y = mean_over_rest(found.value)
    fine = np.isfinite(y)
    if not fine.any():
        return None
    return Series(found.step[fine], y[fine], found.units, (), found.meaning, name, found.samples)


def is_large(run: Trajectory, name: str) -> bool:
    """Return whether a series is of vectors as long as the model, which no page shows.

    Args:
        run: The run, or a file beside it.
        name: Of the series.
    """
    return "parameter" in run.about(name)["dims"].split()


def without_accuracy(run: Trajectory) -> bool:
    """Return whether the run was evaluated but has no accuracy: each has a loss, and NaN for it.

    Args:
        run: The run.
    """
    evaluated = series_or_none(run, TEST_LOSS) is not None
    return evaluated and series_or_none(run, ACCURACY) is None


def mean_over_rest(value: np.ndarray) -> np.ndarray:
    """Return the mean over all axes but the first, without NaN. ``[n, ...] -> [n]``.

    Args:
        value: ``[n, ...]``.
    """
    flat = np.asarray(value, dtype=float).reshape(len(value), -1) if value.size else value
    if not flat.size:
        return np.full(len(value), np.nan)
    there = ~np.isnan(flat)
    count = there.sum(axis=1)
    total = np.where(there, flat, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def thinned(x: np.ndarray, y: np.ndarray, bins: int = PIXELS) -> Curve:
    """Merge the points into at most `bins`, each with the range of the values it stands for.

    Args:
        x: ``[n]`` ascending.
        y: ``[n]`` finite.
        bins: Most points wanted.
    """
    if len(x) <= 2 * bins:
        return Curve(x, y, y, y)
    # Equal widths in x, not in count: a bin is a place on the page.
    place = np.floor((x - x[0]) / max(x[-1] - x[0], 1e-12) * (bins - 1e-9)).astype(int)
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    groups = np.split(y, starts[1:])
    middle = np.array([np.median(group) for group in groups])
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    return Curve(np.maximum.reduceat(x, starts), middle, low, high)


def breaks(run: Trajectory, step: np.ndarray) -> np.ndarray:
    """Return the indices of `step` before which values are missing: no line is drawn there.

    Values of rounds stand at the ends of rounds, so those between two of them are counted; others
    have a cadence, and where two are more than one and a half times as far apart as usual, some are
    missing.

    Args:
        run: The run.
        step: ``[n]`` ascending global steps at which there is a value.
    """
    begins, ends = run.rounds.step_begin, run.rounds.step_end
    at = np.searchsorted(ends, step)
    if len(ends) and (ends[np.minimum(at, len(ends) - 1)] == step).all() and len(step) > 2:
        holes = np.cumsum(np.concatenate([[False], begins[1:] != ends[:-1]]))
        return late(at + holes[at])
    return late(step)


def late(step: np.ndarray) -> np.ndarray:
    """Return the indices of `step` that follow after more steps than usual: see `breaks`.

    Args:
        step: ``[n]`` ascending.
    """
    apart = np.diff(step)
    if len(apart) < 2:
        return np.empty(0, int)
    # Not the median: exchanges that are due at multiples of something take turns in being apart.
    return 1 + np.flatnonzero(apart > 1.5 * np.percentile(apart, 75, method="lower"))


def pieces(n: int, breaks: Sequence[int] | Any) -> list[slice]:
    """Cut n values where some are missing, and return the slices.

    Args:
        n: How many there are.
        breaks: Indices at which a new piece begins.
    """
    edges = [0, *(int(i) for i in breaks), n]
    return [slice(a, b) for a, b in pairwise(edges) if b > a]


def smoothed(y: np.ndarray, window: int) -> np.ndarray:
    """Return the centred running mean, its window shrinking at both ends. ``[n] -> [n]``.

    Args:
        y: ``[n]`` finite.
        window: Points in the window; made odd.
    """
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(y)])
    at = np.arange(len(y))
    reach = np.minimum(half, np.minimum(at, len(y) - 1 - at))
    return (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)


def changes(y: np.ndarray) -> np.ndarray:
    """Return the indices at which `y` changes, thinned to what a page can show.

    Args:
        y: ``[n]``; NaN is like NaN.
    """
    same = (y[1:] == y[:-1]) | (np.isnan(y[1:]) & np.isnan(y[:-1]))
    changed = np.flatnonzero(np.concatenate([[True], ~same]))
    return changed[:: max(1, len(changed) // (2 * PIXELS))]


def first_local_step(run: Trajectory) -> int | None:
    """Return the global step at which rounds grow longer than one step; None if they never do.

    Args:
        run: The run.
    """
    longer = np.flatnonzero(run.rounds.local_steps > 1)
    if not len(longer) or longer[0] == 0:
        return None
    return int(run.rounds.step_begin[longer[0]])
