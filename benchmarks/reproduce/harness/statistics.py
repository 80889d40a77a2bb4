"""Numbers over seeds: mean, interval, test. All of it is scipy's; here is only what is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST = 5  # seeds below which nothing is concluded


@dataclass(frozen=True)
class Found:
    """A number over seeds.

    Attributes:
        mean: Over all seeds; NaN if one of them is.
        low: Where the interval begins ...
        high: ... and ends: 95 % for all looks together (Student's t, Bonferroni).
        p: Exact test of signs drawn at random (Fisher's permutation test) against `null`; with n
            seeds it cannot be below 2 / 2^n.
        n: Seeds.
        sign: 1 or -1 if every seed is on that side of `null`, else 0.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int
    sign: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def beyond(self, null: float = 0.0) -> int:
        """Return 1 or -1 if the number is on that side of `null`, else 0.

        It is if the interval leaves `null` out, or all of at least five seeds are on one side.
        """
        if self.n < LEAST or math.isnan(self.mean):
            return 0
        if self.low > null or self.high < null:
            return 1 if self.low > null else -1
        return self.sign


def found(values: Sequence[float], null: float = 0.0, looks: int = 1) -> Found:
    """Say what values over seeds amount to.

    Args:
        values: One a seed; a run that gave none has NaN, and then nothing is concluded.
        null: What the test is against.
        looks: How many such numbers the claim looks at: intervals are 1 - 0.05 / looks.
    """
    x = np.asarray(values, dtype=float) - null
    n, mean = len(x), float(x.mean()) + null
    if n < 2 or not np.isfinite(x).all():
        return Found(mean, -math.inf, math.inf, math.nan, n, 0)
    sign = int(np.sign(x[0])) if (np.sign(x) == np.sign(x[0])).all() else 0
    if np.ptp(x) <= 1e-12 * np.abs(x).max():  # equal to rounding: nothing to take a deviation of
        return Found(mean, mean, mean, 2.0 ** (1 - n) if sign else 1.0, n, sign)
    within = stats.ttest_1samp(x, 0.0).confidence_interval(1 - 0.05 / looks)
    signs = stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=2**14)
    low, high = (float(end) + null for end in within)
    return Found(mean, low, high, float(signs.pvalue), n, sign)


def paired(a: Sequence[float], b: Sequence[float], looks: int = 1) -> Found:
    """Say what the differences a - b of the same seeds amount to; see `found`."""
    return found(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), looks=looks)
