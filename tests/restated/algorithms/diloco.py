"""DiLoCo (Douillard et al., arXiv:2311.08105): an outer optimiser on Delta = anchor - mean x_k."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np

from hpc_localsgd.algorithms.diloco import DiLoCo
from restated.algorithms.compressed import Messages, through_each
from restated.local import AdamW
from restated.problem import LOCAL_FIRST, Case, Problem

Outer = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (anchor, Delta) -> anchor


def nesterov(lr: float, mu: float) -> Outer:
    """v <- mu v + Delta; anchor <- anchor - lr (Delta + mu v)."""
    v = np.zeros(12)

    def step(anchor: np.ndarray, delta: np.ndarray) -> np.ndarray:
        nonlocal v
        v = mu * v + delta
        return anchor - lr * (delta + mu * v)

    return step


def adam(lr: float, b1: float, b2: float, eps: float) -> Outer:
    """Kingma & Ba, Algorithm 1."""
    m, v, n = np.zeros(12), np.zeros(12), 0

    def step(anchor: np.ndarray, delta: np.ndarray) -> np.ndarray:
        nonlocal m, v, n
        n, m, v = n + 1, b1 * m + (1 - b1) * delta, b2 * v + (1 - b2) * delta**2
        return anchor - lr * (m / (1 - b1**n)) / (np.sqrt(v / (1 - b2**n)) + eps)

    return step


def path(p: Problem, outer: Outer, codec: ModuleType | None = None, memory: bool = False) -> None:
    x, messages = p.start, Messages(p.K, codec, memory)
    anchor = x[0].copy()
    for _, begin, end in p.rounds():
        x = p.local_steps(x, begin, end)
        anchor = outer(anchor, messages.mean(anchor - x))
        x = p.end_round(np.tile(anchor, (p.K, 1)), end - begin)


def options(**given: object) -> DiLoCo:
    return DiLoCo(lr=0.6, momentum=0.75, **given)  # type: ignore[arg-type]


CASES = [
    Case("nesterov", options(), lambda p: path(p, nesterov(0.6, 0.75))),
    Case("no-momentum", DiLoCo(lr=0.6, momentum=0.0), lambda p: path(p, nesterov(0.6, 0.0))),
    Case(
        "inner-adamw",
        options(),
        lambda p: path(p, nesterov(0.6, 0.75)),
        {"local": AdamW, "lengths": LOCAL_FIRST},
    ),
    Case(
        "outer-adam",
        DiLoCo(lr=0.05, optimizer="Adam", options={"betas": (0.7, 0.9), "eps": 1e-3}),
        lambda p: path(p, adam(0.05, 0.7, 0.9, 1e-3)),
    ),
    *(
        Case(
            name,
            options(compressor=ours),
            lambda p, c=codec, f=feedback: path(p, nesterov(0.6, 0.75), c, f),
        )
        for name, ours, codec, feedback in through_each()
    ),
]
