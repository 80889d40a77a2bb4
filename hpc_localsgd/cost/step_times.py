"""Seconds of a step and of waiting for the slowest worker, from those that a run measured.

The time of a step is that of the mean worker. Workers differ in two ways: some are always slower,
by `apart_s` a step, and each step is now longer and now shorter, by `jitter_s`. A round of H steps
of one worker deviates from the mean by

    deviation^2 = (H apart_s)^2 + H jitter_s^2

and the slowest of K is above the mean by as many deviations as the largest of K normal numbers is
expected to be. A round of H steps waits once, so it waits less than H rounds of one. Rounds that
took ten times the usual, the first of a start, say nothing of either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

PARTS = 10  # of the run, one after another
MIDDLE = (16, 84)  # percentiles: one deviation to either side of the middle
SLOW = 10  # times the usual: a round of a start, in which libraries load and compilers work


@dataclass(frozen=True)
class StepTimes:
    """What a run measured of its steps.

    Attributes:
        step_s: Seconds of a step of the mean worker, the middle one of ten parts of the run.
        off: Relative: half the width of the middle two thirds of these parts; 0 if there are none.
        apart_s: Deviation between workers' own means, of a step.
        jitter_s: Deviation of a step of one worker around its mean, taken as independent.
    """

    step_s: float
    off: float = 0.0
    apart_s: float = 0.0
    jitter_s: float = 0.0

    def waiting_s(self, H: int, K: int) -> float:
        """Return the seconds that the mean of K workers waits for the slowest, a round of H steps.

        Args:
            H: Steps of the round.
            K: Workers.
        """
        return largest_of(K) * math.hypot(H * self.apart_s, math.sqrt(H) * self.jitter_s)


def step_times(compute_s: np.ndarray, local_steps: np.ndarray) -> StepTimes:
    """Look at the rounds of a run.

    Args:
        compute_s: ``[S, K]`` seconds each worker computed in each round; NaN where unknown.
        local_steps: ``[S]`` H of each round.

    Raises:
        ValueError: There is no round whose seconds are known.
    """
    known = np.isfinite(compute_s).any(axis=1) & (np.nan_to_num(compute_s).sum(axis=1) > 0)
    seconds, H = compute_s[known], np.asarray(local_steps, dtype=float)[known]
    if not len(H):
        raise ValueError("no round has seconds of computing")
    mean = np.nanmean(seconds, axis=1)
    step_s, off = spread(mean, H)
    usual = mean <= SLOW * step_s * H
    return StepTimes(step_s, off, *_deviations((seconds - mean[:, None])[usual], H[usual]))


def spread(seconds: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return seconds of one thing, and how far parts of the run are off, relative to it.

    Args:
        seconds: ``[S]`` of each round.
        counts: ``[S]`` how many of these things each round had.
    """
    parts = [part for part in np.array_split(np.arange(len(seconds)), PARTS) if len(part)]
    each = [seconds[part].sum() / counts[part].sum() for part in parts]
    low, high = np.percentile(each, MIDDLE)
    middle = float(np.median(each))
    return middle, float(high - low) / 2 / middle if middle else 0.0


def _deviations(beyond: np.ndarray, H: np.ndarray) -> tuple[float, float]:
    """Return the deviation of workers' means, and of single steps, from seconds beyond the mean.

    Args:
        beyond: ``[S, K]`` of each round and worker.
        H: ``[S]`` steps of each round.
    """
    S, K = beyond.shape
    if K < 2:
        return 0.0, 0.0
    own = np.nansum(beyond, axis=0) / H.sum()  # [K], of a step
    left = beyond - H[:, None] * own
    free = max(1, (S - 1) * (K - 1))
    jitter2 = float(np.nansum(left**2 / H[:, None])) / free
    # The means of workers that are alike differ too, by what their steps did by chance.
    apart2 = float(own @ own) / (K - 1) - jitter2 / H.sum()
    return math.sqrt(max(0.0, apart2)), math.sqrt(jitter2)


def largest_of(K: int) -> float:
    """Return about how large the largest of K standard normal numbers is expected to be.

    Source: Blom, Statistical estimates and transformed beta-variables, 1958.
    """
    return NormalDist().inv_cdf((K - 0.375) / (K + 0.25)) if K > 1 else 0.0
