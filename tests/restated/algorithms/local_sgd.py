"""Local SGD (Stich 2019) and its compressed form (Lin et al., ICLR 2020).

Lin et al.: Delta_k = c - x_k; c <- c - mean_k C(Delta_k + memory_k); x_k <- c.
Rounds of one step are parallel SGD (the mean gradient) until the first local step.
"""

from __future__ import annotations

from types import ModuleType

from hpc_localsgd.algorithms.local_sgd import LocalSGD
from restated.algorithms.compressed import Messages, through_each
from restated.local import AdamW
from restated.problem import LOCAL_FIRST, Case, Problem, equal


def path(
    p: Problem, average: str = "gradients", codec: ModuleType | None = None, feedback: bool = False
) -> None:
    x, messages, parallel = p.start, Messages(p.K, codec, feedback), average == "gradients"
    c = x[0].copy()
    for _, begin, end in p.rounds():
        parallel = parallel and end - begin == 1
        if parallel:
            x = p.step(x, equal(p.gradients(x, begin)), begin)
            c = x[0].copy()
        else:
            x = p.local_steps(x, begin, end)
            c = c - messages.mean(c - x) if codec else sum(x) / p.K
            x = x * 0 + c
        x = p.end_round(x, end - begin)


CASES = [
    Case("gradients", LocalSGD(), path),
    Case("gradients-late", LocalSGD(), path, {"lengths": LOCAL_FIRST}),
    Case("adamw", LocalSGD(), path, {"local": AdamW}),
    Case("parameters", LocalSGD(average="parameters"), lambda p: path(p, "parameters")),
    *(
        Case(
            f"{average}-{name}",
            LocalSGD(average, compressor=ours),
            lambda p, a=average, c=codec, f=feedback: path(p, a, c, f),
        )
        for average in ("gradients", "parameters")
        for name, ours, codec, feedback in through_each()
    ),
]
