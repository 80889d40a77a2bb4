"""Learning rates of step t, all with a linear warm-up (Goyal et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable

from hpc_localsgd.schedules.rates import Rate, constant, cosine, multi_step

STEPS = 60  # of the run whose share a duration in % is


def warm(t: int, after: float) -> float:
    """From 0.2 of the peak to the peak in 6 steps; then what comes after."""
    return 0.3 * (0.2 + 0.8 * t / 6) if t < 6 else after


def drops(t: int) -> float:
    return 0.3 * 0.25 ** ((t >= 15) + (t >= 30) + (t >= 45))


def half_cosine(t: int) -> float:
    """From 0.3 at step 6 to 0.02 at step 48, and there it stays."""
    share = min(1.0, (t - 6) / 42)
    return 0.02 + 0.28 * (1 + math.cos(math.pi * share)) / 2


GIVEN = {"lr": 0.3, "warmup": "10%", "warmup_from": 0.2}
RATES: list[tuple[Rate, Callable[[int], float]]] = [
    (constant(**GIVEN), lambda t: warm(t, 0.3)),
    (
        multi_step(**GIVEN, at=("25%", 30, "75%"), factor=0.25),
        lambda t: warm(t, drops(t)),
    ),
    (cosine(**GIVEN, floor=0.02, until="80%"), lambda t: warm(t, half_cosine(t))),
]
