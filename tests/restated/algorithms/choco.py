"""CHOCO-SGD (Koloskova et al., arXiv:1902.00340, Algorithm 2), every x^_j at every neighbour.

q_i = Q(x_i - x^_i)        x^_j <- x^_j + q_j        x_i <- x_i + gamma sum_j w_ij (x^_j - x^_i)
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from hpc_localsgd.algorithms.choco import Choco
from hpc_localsgd.compressors import Int4, Sign, TopK
from hpc_localsgd.topology import custom, star
from restated.algorithms.gossip import STAR
from restated.compressors import int4, sign, top_k
from restated.problem import LOCAL_FIRST, SIZES, Case, Problem

UNEVEN = np.array([[0.5, 0.3, 0.2], [0.3, 0.6, 0.1], [0.2, 0.1, 0.7]])


def path(p: Problem, W: np.ndarray, gamma: float, codec: ModuleType | None) -> None:
    x = p.start
    hats = p.start
    for _, begin, end in p.rounds():
        x = p.local_steps(x, begin, end)
        said = x - hats
        q = said if codec is None else np.stack([codec.coded(row, SIZES) for row in said])
        hats = hats + q
        for i in range(p.K):
            x[i] = x[i] + gamma * sum(W[i, j] * (hats[j] - hats[i]) for j in range(p.K))
        x = p.end_round(x, end - begin)


STILL = custom(UNEVEN.tolist())
CODED = ((Sign(), sign), (Int4(block=5), int4), (TopK(fraction=0.3), top_k))
CASES = [
    *(
        Case(codec.__name__, Choco(STILL, 0.35, made), lambda p, c=codec: path(p, UNEVEN, 0.35, c))
        for made, codec in CODED
    ),
    Case("plain", Choco(star(), 0.6, None), lambda p: path(p, STAR, 0.6, None)),
    Case(
        "local-first",
        Choco(star(), 0.35, TopK(fraction=0.3)),
        lambda p: path(p, STAR, 0.35, top_k),
        {"lengths": LOCAL_FIRST},
    ),
]
