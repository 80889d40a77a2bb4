"""CoCoD-SGD (Shen et al., IJCAI 2019): the average of the last exchange plus what came since."""

from __future__ import annotations

from hpc_localsgd.algorithms.cocod import CoCoD
from restated.problem import LOCAL_FIRST, Case, Problem, equal


def path(p: Problem) -> None:
    x, sent = p.start, None
    for s, begin, end in p.rounds():
        x = p.local_steps(x, begin, end)
        if sent is not None:
            x = equal(sent) + (x - sent)
        sent = x.copy()
        x = p.end_round(equal(x) if s == len(p.lengths) - 1 else x, end - begin)


CASES = [Case("late", CoCoD(), path), Case("local-first", CoCoD(), path, {"lengths": LOCAL_FIRST})]
