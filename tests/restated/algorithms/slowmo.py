"""SlowMo (Wang et al., arXiv:1910.00643, Algorithm 1); gamma is the rate of the round's first step.

u <- beta u + (x_round - mean_k x_k) / gamma        x_round <- x_round - alpha gamma u
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from hpc_localsgd.algorithms.slowmo import SlowMo
from restated.algorithms.compressed import Messages, through_each
from restated.local import AdamW
from restated.problem import LOCAL_FIRST, Case, Problem


def path(p: Problem, alpha: float, beta: float, coded: Sequence[Any] = ()) -> None:
    x, messages = p.start, Messages(p.K, *(coded or (None, False)))
    anchor, u = x[0].copy(), np.zeros(12)
    for _, begin, end in p.rounds():
        gamma = p.rate(begin)
        x = p.local_steps(x, begin, end)
        mean = anchor - messages.mean(anchor - x)
        if gamma == 0:  # a warm-up: only averages
            anchor = mean
        else:
            u = beta * u + (anchor - mean) / gamma
            anchor = anchor - alpha * gamma * u
        x = p.end_round(np.tile(anchor, (p.K, 1)), end - begin)


MADE = SlowMo(alpha=0.8, beta=0.45)
CASES = [
    Case("momentum", MADE, lambda p: path(p, 0.8, 0.45)),
    Case("local-first", MADE, lambda p: path(p, 0.8, 0.45), {"lengths": LOCAL_FIRST}),
    Case("adamw", MADE, lambda p: path(p, 0.8, 0.45), {"local": AdamW}),
    *(
        Case(name, replace(MADE, compressor=ours), partial(path, alpha=0.8, beta=0.45, coded=coded))
        for name, ours, *coded in through_each()
    ),
    Case("warm-up", MADE, lambda p: path(p, 0.8, 0.45), {"lengths": LOCAL_FIRST, "warm": True}),
]
