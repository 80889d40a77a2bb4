"""Hierarchical local SGD (Lin et al., ICLR 2020): blocks of 2, of 4, all 8 workers.

Averages within the smallest blocks at every round, within the next every second, over all workers
every fourth (two times two), and at the end of the run; through a codec, what all workers send is
their difference from the last average over all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from hpc_localsgd.algorithms.hierarchical import Hierarchical
from restated.algorithms.compressed import Messages, through_each
from restated.problem import LOCAL_FIRST, PARALLEL_FIRST, Case, Problem


def within(x: np.ndarray, block: int) -> np.ndarray:
    """Every worker at the mean of its block of consecutive workers."""
    rows = [x[k // block * block : k // block * block + block] for k in range(len(x))]
    return np.stack([sum(row) / block for row in rows])


def path(
    p: Problem, parallel_first: bool, periods: tuple[int, int], coded: Sequence[Any] = (None, False)
) -> None:
    x, parallel, messages = p.start, parallel_first, Messages(p.K, *coded)
    anchor = x[0].copy()  # the last average over all
    for s, begin, end in p.rounds():
        x = p.local_steps(x, begin, end)
        parallel = parallel and end - begin == 1
        block = 2
        if (s + 1) % periods[0] == 0:
            block = 4
        if (s + 1) % (periods[0] * periods[1]) == 0 or s + 1 == len(p.lengths) or parallel:
            block = 8
        if block == 8:
            anchor = anchor - messages.mean(anchor - x)
        met = np.tile(anchor, (8, 1)) if block == 8 else within(x, block)
        x = p.end_round(met, end - begin)


def case(name: str, lengths: tuple[int, ...], periods: tuple[int, int], first: bool) -> Case:
    made = Hierarchical(blocks=(2, 4), rounds=periods, parallel_first=first)
    return Case(name, made, lambda p: path(p, first, periods), {"K": 8, "lengths": lengths})


CASES = [
    case("two-levels", PARALLEL_FIRST, (2, 2), False),
    case("parallel-first", (*PARALLEL_FIRST, 1), (2, 2), True),
    case("parallel-late", LOCAL_FIRST, (3, 1), True),
    *(
        replace(
            case(name, PARALLEL_FIRST, (2, 2), False),
            made=Hierarchical((2, 4), (2, 2), compressor=ours),
            path=partial(path, parallel_first=False, periods=(2, 2), coded=coded),
        )
        for name, ours, *coded in through_each()
    ),
    case("longer", (1, 2, 1, 2, 1, 2, 1, 2, 1, 2), (2, 3), False),
]
