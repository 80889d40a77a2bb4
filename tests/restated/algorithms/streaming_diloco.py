"""Streaming DiLoCo (Douillard et al., arXiv:2501.18512): fragments in turn, `tau` steps late.

Fragment f is averaged at the end of a round; `tau` steps later, or at the end of a shorter round,
the outer Nesterov step is taken and merged: x_kf <- a x_kf + (1 - a) anchor_f. The last round
exchanges all fragments at once, and nobody keeps anything of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from hpc_localsgd.algorithms.streaming_diloco import StreamingDiLoCo
from restated.algorithms.compressed import Messages, through_each
from restated.problem import LOCAL_FIRST, PARALLEL_FIRST, SIZES, Case, Problem

CUTS = {1: [0, 12], 2: [0, 7, 12], 3: [0, 4, 8, 12]}  # whole tensors of 4, 3, 1 and 4 numbers
LR, MU = 0.6, 0.75


def within(cuts: list[int], f: int) -> list[int]:
    """Lengths of the fragment's tensors."""
    ends = np.cumsum(SIZES)
    return [n for n, e in zip(SIZES, ends, strict=True) if cuts[f] < e <= cuts[f + 1]]


class Outer:
    """The anchor and its momentum."""

    def __init__(self, x: np.ndarray, fragments: int) -> None:
        self.anchor, self.v, self.cuts = x[0].copy(), np.zeros(12), CUTS[fragments]

    def part(self, f: int) -> slice:
        return slice(self.cuts[f], self.cuts[f + 1])

    def land(self, x: np.ndarray, f: int, mean: np.ndarray, keep: float) -> np.ndarray:
        """The fragment after its outer step, in every worker."""
        at, x = self.part(f), x.copy()
        delta = self.anchor[at] - mean
        self.v[at] = MU * self.v[at] + delta
        self.anchor[at] = self.anchor[at] - LR * (delta + MU * self.v[at])
        x[:, at] = keep * x[:, at] + (1 - keep) * self.anchor[at]
        return x


def path(
    p: Problem, fragments: int, tau: int, a: float, coded: Sequence[Any] = (None, False)
) -> None:
    x = p.start
    outer, way = Outer(x, fragments), None  # what is under way: fragment, mean, when it lands
    messages = [Messages(p.K, *coded, within(CUTS[fragments], f)) for f in range(fragments)]

    def mean(f: int) -> np.ndarray:
        anchor = outer.anchor[outer.part(f)]
        return anchor - messages[f].mean(anchor - x[:, outer.part(f)])

    for s, begin, end in p.rounds():
        for t in range(begin, end):
            x = p.step(x, p.gradients(x, t), t)
            if way is not None and (t + 1 == way[2] or t + 1 == end):
                x, way = outer.land(x, way[0], way[1], a), None
            if t + 1 < end:
                p.note(x)
        if s == len(p.lengths) - 1:
            for f in range(fragments):
                x = outer.land(x, f, mean(f), 0.0)
        else:
            f = s % fragments
            way = (f, mean(f), end + tau)
            if tau == 0:
                x, way = outer.land(x, f, way[1], a), None
        x = p.end_round(x, end - begin)


def case(fragments: int, tau: int, a: float, lengths: tuple[int, ...]) -> Case:
    made = StreamingDiLoCo(fragments, tau, a, LR, MU)
    name = f"{fragments}-fragments-{tau}-late-{len(set(lengths[:2]))}"
    return Case(name, made, lambda p: path(p, fragments, tau, a), {"lengths": lengths})


CASES = [
    case(2, 0, 0.35, PARALLEL_FIRST),
    case(2, 1, 0.35, PARALLEL_FIRST),
    case(3, 2, 0.35, PARALLEL_FIRST),
    case(2, 2, 0.35, LOCAL_FIRST),
    case(3, 1, 0.25, (2, 3, 4, 3, 2, 4)),
    case(1, 3, 0.25, (4, 4, 4, 4, 4, 4)),
    *(
        Case(
            name,
            StreamingDiLoCo(2, 1, 0.35, LR, MU, compressor=ours),
            partial(path, fragments=2, tau=1, a=0.35, coded=coded),
            {"lengths": PARALLEL_FIRST},
        )
        for name, ours, *coded in through_each()
    ),
]
