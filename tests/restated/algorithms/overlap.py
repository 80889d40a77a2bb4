"""Overlap Local SGD (Wang et al., arXiv:2002.09539), momentum form, v in units of parameters.

The anchor z that arrives was sent at the exchange before. Pulled back, x_k+ = x_k - pull (x_k - z);
then momentum on the way from the anchor to the workers' mean and a step of the anchor:

    w <- beta w + (mean_k x_k+ - z)        z <- z + w

which is under way while the next round runs. The run ends with the average.
"""

from __future__ import annotations

import numpy as np

from hpc_localsgd.algorithms.overlap import Overlap
from restated.problem import LOCAL_FIRST, Case, Problem, equal


def path(p: Problem, pull: float, beta: float) -> None:
    x = p.start
    z, w = x[0].copy(), np.zeros(12)
    for s, begin, end in p.rounds():
        x = p.local_steps(x, begin, end)
        x = x - pull * (x - z)
        if s == len(p.lengths) - 1:
            x = equal(x)
        else:
            w = beta * w + (sum(x) / p.K - z)
            z = z + w
        x = p.end_round(x, end - begin)


CASES = [
    Case("momentum", Overlap(pull=0.4, beta=0.3), lambda p: path(p, 0.4, 0.3)),
    Case(
        "local-first",
        Overlap(pull=0.8, beta=0.6),
        lambda p: path(p, 0.8, 0.6),
        {"lengths": LOCAL_FIRST},
    ),
]
