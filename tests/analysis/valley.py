"""Local SGD on the valley of Gu et al.: the experiment that the Slow SDE is compared with (R1)."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import numpy as np

K, LR, STEPS, START = 8, 0.02, 20_000, 1.5
LENGTHS = (1, 2, 4, 16, 64)  # of a round
REPEATS = 128


@cache
def ways(at: Collection[int] = (STEPS,)) -> dict[int, np.ndarray]:
    """Return by H the mean x of all workers and repeats at some steps, `[len(at)]`.

    L = (1 + x^2) y^2 / 2 with label noise, which is the same for all lengths of a round: they are
    computed side by side.

    Args:
        at: Ascending steps after the first, `STEPS` at most.
    """
    stream = np.random.default_rng(1)
    x = np.full((len(LENGTHS), K, REPEATS), START)
    y = np.zeros_like(x)
    found = []
    for t in range(1, STEPS + 1):
        a = 1 + x * x
        noise = np.sqrt(a) * stream.standard_normal((K, REPEATS))
        x, y = x - LR * x * y * y, y - LR * (a * y + noise)
        for i, H in enumerate(LENGTHS):
            if t % H == 0:
                x[i], y[i] = x[i].mean(0), y[i].mean(0)
        if t in at:
            found.append(x.mean((1, 2)))
    return dict(zip(LENGTHS, np.array(found).T, strict=True))
