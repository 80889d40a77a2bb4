"""Parallel SGD: g = mean_k g_k, every worker steps along it; or the mean of coded gradients."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from hpc_localsgd.algorithms.allreduce import AllReduce
from restated.algorithms.compressed import Messages, through_each
from restated.local import AdamW
from restated.problem import LOCAL_FIRST, Case, Problem


def path(p: Problem, codec: ModuleType | None = None, feedback: bool = False) -> None:
    x, messages = p.start, Messages(p.K, codec, feedback)
    for _, begin, end in p.rounds():
        for t in range(begin, end):
            g = messages.mean(p.gradients(x, t))
            x = p.step(x, np.tile(g, (p.K, 1)), t)
            p.note(x)


CASES = [
    Case("plain", AllReduce(), path, {"lengths": LOCAL_FIRST}),
    Case("adamw", AllReduce(), path, {"local": AdamW}),
    *(
        Case(name, AllReduce(compressor=ours), lambda p, c=codec, f=feedback: path(p, c, f))
        for name, ours, codec, feedback in through_each()
    ),
]
