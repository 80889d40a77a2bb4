"""D2 (Tang et al., ICML 2018): x(s+1) = W (2 x(s) - x(s-1) - lr g(s) + lr g(s-1)).

With y(s) = x(s) - lr g(s), where the local steps lead: x(s+1) = W (y(s) + x(s) - y(s-1)).
"""

from __future__ import annotations

import numpy as np

from hpc_localsgd.algorithms.d2 import D2
from hpc_localsgd.topology import lazy, star
from restated.problem import LOCAL_FIRST, Case, Problem

W = (np.eye(3) + np.array([[1, 1, 1], [1, 2, 0], [1, 0, 2]]) / 3) / 2  # lazy star of three


def path(p: Problem) -> None:
    x, before = p.start, None
    for _, begin, end in p.rounds():
        y = p.local_steps(x, begin, end)
        x_next = W @ (y if before is None else y + x - before)
        x, before = x_next, y
        x = p.end_round(x, end - begin)


CASES = [
    Case("lazy-star", D2(lazy(of=star())), path),
    Case("local-first", D2(lazy(of=star())), path, {"lengths": LOCAL_FIRST}),
]
