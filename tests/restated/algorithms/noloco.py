"""NoLoCo (Kolehmainen et al., arXiv:2506.10911): an outer step with one peer, drawn every round.

Delta = x - phi; d <- alpha d + beta mean Delta - gamma (phi - mean phi), means over the pair;
phi <- phi + d.
"""

from __future__ import annotations

import numpy as np

from hpc_localsgd.algorithms.noloco import NoLoCo
from hpc_localsgd.topology import random_pairs
from restated.local import AdamW
from restated.problem import LOCAL_FIRST, Case, Problem


def pairs(K: int, seed: int, s: int) -> list[list[int]]:
    """Two and two in a random order of the workers; the last of an odd number is alone."""
    order = np.random.default_rng([seed, s]).permutation(K).tolist()
    return [order[i : i + 2] for i in range(0, K, 2)]


def path(p: Problem, alpha: float = 0.4, beta: float = 0.8, gamma: float = 1.1) -> None:
    phi, d = p.start, np.zeros_like(p.start)
    for s, begin, end in p.rounds():
        delta = p.local_steps(phi, begin, end) - phi
        d = d * alpha
        for pair in pairs(p.K, 3, s):
            d[pair] += beta * delta[pair].mean(axis=0) - gamma * (
                phi[pair] - phi[pair].mean(axis=0)
            )
        phi = p.end_round(phi + d, end - begin)


def made(alpha: float = 0.4, beta: float = 0.8, gamma: float = 1.1) -> NoLoCo:
    return NoLoCo(alpha, beta, gamma, random_pairs(seed=3))


CASES = [
    Case("three", made(), path),
    Case("four", made(), path, {"K": 4, "lengths": LOCAL_FIRST}),
    Case("inner-adamw", made(), path, {"K": 5, "local": AdamW}),
    Case("no-momentum", made(alpha=0.0), lambda p: path(p, alpha=0.0)),
]
