"""The local optimiser of one worker, and what becomes of it at the end of a round."""

from __future__ import annotations

from typing import Protocol

import numpy as np

DECAYED = 7  # entries that take weight decay, of the 12 in `problem`


class Local(Protocol):
    """One worker's optimiser; `memory` holds what it remembers, arrays [P]."""

    memory: dict[str, np.ndarray]

    def step(self, x: np.ndarray, g: np.ndarray, lr: float) -> np.ndarray: ...


def decayed(x: np.ndarray) -> np.ndarray:
    """The entries that take weight decay, 0 elsewhere."""
    return np.concatenate([x[:DECAYED], np.zeros(len(x) - DECAYED)])


class Sgd:
    """SGD with Nesterov momentum and L2 decay, in the form of Sutskever et al. that all use.

    d = g + decay x        v <- momentum v + d        x <- x - lr (d + momentum v)
    """

    GIVEN = {"momentum": 0.8, "nesterov": True, "weight_decay": 0.03}

    def __init__(self) -> None:
        self.memory = {"v": np.zeros(12)}

    def step(self, x: np.ndarray, g: np.ndarray, lr: float) -> np.ndarray:
        d = g + 0.03 * decayed(x)
        v = self.memory["v"] = 0.8 * self.memory["v"] + d
        return x - lr * (d + 0.8 * v)


class AdamW:
    """Adam with decoupled decay (Loshchilov & Hutter 2019).

    x <- x - lr decay x - lr m^ / (sqrt(v^) + eps)
    """

    GIVEN = {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2}

    def __init__(self) -> None:
        self.memory, self.n = {"m": np.zeros(12), "v": np.zeros(12)}, 0

    def step(self, x: np.ndarray, g: np.ndarray, lr: float) -> np.ndarray:
        self.n += 1
        m = self.memory["m"] = 0.8 * self.memory["m"] + 0.2 * g
        v = self.memory["v"] = 0.95 * self.memory["v"] + 0.05 * g * g
        m_hat, v_hat = m / (1 - 0.8**self.n), v / (1 - 0.95**self.n)
        return x - lr * 0.2 * decayed(x) - lr * m_hat / (np.sqrt(v_hat) + 1e-3)


def keep(workers: list[Local], H: int) -> list[Local]:
    """Every worker continues with what it remembers."""
    return workers


def average(workers: list[Local], H: int) -> list[Local]:
    """After local steps all continue with the mean of what they remember."""
    if H > 1:
        names = workers[0].memory
        mean = {name: sum(w.memory[name] for w in workers) / len(workers) for name in names}
        for worker in workers:
            worker.memory.update(mean)
    return workers


def reset(workers: list[Local], H: int) -> list[Local]:
    """After local steps all start over."""
    return [type(worker)() for worker in workers] if H > 1 else workers


class Desynced:
    """DES-LOC (Iacob et al. 2025): a moment is averaged every so many rounds, by its name."""

    def __init__(self, **every: int) -> None:
        self.every, self.rounds = every, 0

    def __call__(self, workers: list[Local], H: int) -> list[Local]:
        self.rounds += 1
        if H > 1:
            for name, every in self.every.items():
                mean = sum(w.memory[name] for w in workers) / len(workers)
                for worker in workers:
                    worker.memory[name] = mean if self.rounds % every == 0 else worker.memory[name]
        return workers
