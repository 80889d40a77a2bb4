"""Gossip: ATC x <- W (x - lr g(x)); AWC (Lian et al. 2017) x <- W x - lr g(x), as a round does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.topology import Topology, star
from restated.problem import LOCAL_FIRST, Case, Problem, mixing

STAR = np.array([[1, 1, 1], [1, 2, 0], [1, 0, 2]]) / 3


@dataclass(frozen=True)
class turning(Topology):
    """Another matrix in each of four rounds, none symmetric."""

    def weights(self, n: int, k: int) -> np.ndarray:
        return mixing(n, k)

    def period(self, n: int) -> int:
        return 4


def atc(p: Problem, W: np.ndarray | None = None) -> None:
    x = p.start
    for s, begin, end in p.rounds():
        x = p.local_steps(x, begin, end)
        x = p.end_round((mixing(p.K, s) if W is None else W) @ x, end - begin)


def awc(p: Problem, W: np.ndarray | None = None) -> None:
    x = p.start
    for s, begin, end in p.rounds():
        moved = p.local_steps(x, begin, end) - x
        x = p.end_round((mixing(p.K, s) if W is None else W) @ x + moved, end - begin)


CASES = [
    Case("atc-turning", Gossip(turning()), atc),
    Case("awc-turning", Gossip(turning(), order="awc"), awc, {"lengths": LOCAL_FIRST}),
    Case("atc-star", Gossip(star()), lambda p: atc(p, STAR)),
    Case("awc-star", Gossip(star(), order="awc"), lambda p: awc(p, STAR)),
    Case("awc-five", Gossip(turning(), order="awc"), awc, {"K": 5}),
]
