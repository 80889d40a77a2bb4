"""EDiT's pseudo-gradient penalty (Cheng et al., arXiv:2412.07210, Algorithm 2), of the whole model.

Norms G_k of anchor - x_k; out is who lies more than `threshold` sigma above its own mean; weights
exp(-G_k) / sum; the weighted difference clipped; Nesterov.
"""

from __future__ import annotations

import numpy as np

from hpc_localsgd.algorithms.edit import EDiT
from restated.local import AdamW
from restated.problem import LOCAL_FIRST, Case, Problem

MANY = (2, 1, 3, 2, 1, 4, 2, 2, 3, 1)


def path(
    p: Problem, threshold: float = 0.8, clip: float = 0.3, a: float = 0.3, warmup: int = 2
) -> None:
    x, anchor, v, out, clipped = p.start, p.start[0].copy(), np.zeros(12), 0, 0
    mean, deviation = np.zeros(p.K), np.zeros(p.K)
    for s, begin, end in p.rounds():
        difference = anchor - p.local_steps(x, begin, end)
        G = np.sqrt((difference**2).sum(axis=1))
        well = [s < warmup or G[k] - mean[k] <= threshold * deviation[k] for k in range(p.K)]
        out += p.K - sum(well)
        if any(well):
            total = sum(np.exp(-G[k]) for k in range(p.K) if well[k])
            delta = sum(np.exp(-G[k]) / total * difference[k] for k in range(p.K) if well[k])
            length = np.sqrt((delta**2).sum())
            clipped += length > clip
            delta = delta * min(1, clip / length)
            v = 0.6 * v + delta
            anchor = anchor - 0.9 * (delta + 0.6 * v)
        for k in range(p.K):
            if s == 0:
                mean[k] = G[k]
            elif well[k]:
                variance = (1 - a) * (deviation[k] ** 2 + a * (G[k] - mean[k]) ** 2)
                mean[k], deviation[k] = (1 - a) * mean[k] + a * G[k], np.sqrt(variance)
        x = p.end_round(np.tile(anchor, (p.K, 1)), end - begin)
    assert out > 0 or threshold > 100
    assert clipped > 0 or clip > 100


def made(**given: float) -> EDiT:
    usual = {"threshold": 0.8, "clip": 0.3, "smoothing": 0.3, "warmup": 2}
    return EDiT(lr=0.9, momentum=0.6, **(usual | given))  # type: ignore[arg-type]


CASES = [
    Case("all-of-it", made(), path, {"lengths": MANY}),
    Case("five-workers", made(), path, {"K": 5, "lengths": MANY}),
    Case("weighted-alone", made(threshold=1e9, clip=1e9), lambda p: path(p, 1e9, 1e9)),
    Case(
        "inner-adamw",
        made(clip=0.1),
        lambda p: path(p, clip=0.1),
        {"local": AdamW, "lengths": MANY},
    ),
    Case("short", made(threshold=1e9), lambda p: path(p, 1e9), {"lengths": LOCAL_FIRST}),
]
