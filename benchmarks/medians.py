"""Where a median lies: quartiles, and an interval that assumes no distribution."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import comb

WANTED = 0.95  # confidence of an interval


def within(values: Sequence[float]) -> tuple[float, float]:
    """Return the two values, as far from either end, between which the median lies with 95 %.

    The narrowest such interval, by the binomial distribution; of fewer than six values the least
    and the largest, which are less sure: see `sureness`.
    """
    n, below = len(values), 0
    while confidence(n, below + 1) >= WANTED:
        below += 1
    ordered = sorted(values)
    return ordered[below], ordered[n - 1 - below]


def confidence(n: int, below: int) -> float:
    """Return how sure the median lies between n values without `below` at either end."""
    return 1 - 2 * sum(comb(n, i) for i in range(below + 1)) / 2**n


def sureness(n: int) -> str:
    """Return the confidence of `within` for the head of a table: ``95 %``, of five ``94 %``."""
    return f"{100 * min(WANTED, confidence(n, 0)):.0f} %"


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile."""
    low, _, high = statistics.quantiles(values, n=4)
    return low, high
