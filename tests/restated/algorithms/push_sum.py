"""SGP (Assran et al., ICML 2019, Algorithm 1): gradients at z = x / w, then x <- P x, w <- P w.

In a round of one step of plain SGD x gets -lr g(z); other local steps do what they do from z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_localsgd.algorithms.push_sum import PushSum
from hpc_localsgd.topology import Topology
from restated.local import AdamW
from restated.problem import LOCAL_FIRST, Case, Problem


def pushes(n: int, s: int) -> np.ndarray:
    """P of round s: columns sum to one, rows do not; every worker sends to one or two others."""
    P = np.eye(n) + np.roll(np.eye(n), 1, axis=0)
    P[s % n, (s + 2) % n] = 1.0
    return P / P.sum(axis=0)


@dataclass(frozen=True)
class turning(Topology):
    """Another matrix in each of twelve rounds."""

    def weights(self, n: int, k: int) -> np.ndarray:
        return pushes(n, k)

    def period(self, n: int) -> int:
        return 12 * n


def path(p: Problem) -> None:
    z, w = p.start, np.ones(p.K)
    x = z * w[:, None]
    for s, begin, end in p.rounds():
        x = x + (p.local_steps(z, begin, end) - z)
        P = pushes(p.K, s)
        x, w = P @ x, P @ w
        z = p.end_round(x / w[:, None], end - begin)
    p.weights = w


CASES = [
    Case("turning", PushSum(turning()), path),
    Case("local-first", PushSum(turning()), path, {"lengths": LOCAL_FIRST, "local": AdamW}),
    Case("five", PushSum(turning()), path, {"K": 5}),
    Case("one-step", PushSum(turning()), path, {"lengths": (1,) * 8}),
]
