"""Local sign SGD (Lin et al., ICLR 2020): signs of the Nesterov momentum, coded differences.

u <- m u + g; d = g + m u; x_k <- x_k - lr sign(d); c <- c - mean_k C(c - x_k + e_k); x_k <- c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from hpc_localsgd.algorithms.local_sign_momentum import LocalSignMomentum
from restated.algorithms.compressed import Messages, through_each
from restated.local import AdamW
from restated.problem import LOCAL_FIRST, Case, Problem


def path(p: Problem, m: float, nesterov: bool = True, coded: Sequence[Any] = ()) -> None:
    x, messages = p.start, Messages(p.K, *(coded or (None, False)))
    c, u = x[0].copy(), np.zeros((p.K, 12))
    for _, begin, end in p.rounds():
        for t in range(begin, end):
            g = p.gradients(x, t)
            u = m * u + g
            x = p.step(x, np.sign(g + m * u if nesterov else u), t)
            if t + 1 < end:
                p.note(x)
        c = c - messages.mean(c - x)
        x = p.end_round(np.tile(c, (p.K, 1)), end - begin)


MADE = LocalSignMomentum(momentum=0.7, compressor=None)
CASES = [
    Case("nesterov", MADE, lambda p: path(p, 0.7)),
    Case("heavy-ball", replace(MADE, nesterov=False), lambda p: path(p, 0.7, False)),
    Case("local-first", MADE, lambda p: path(p, 0.7), {"lengths": LOCAL_FIRST}),
    Case("adamw", MADE, lambda p: path(p, 0.7), {"local": AdamW}),
    *(
        Case(name, replace(MADE, compressor=ours), partial(path, m=0.7, coded=coded))
        for name, ours, *coded in through_each()
    ),
]
# Last, and so in every dtype: where numbers are chosen by their size, or a momentum passes close by
# 0, less precision takes another way.
CASES.sort(key=lambda case: case.name == "sign-forgetful")
