"""Workers with unequal data, a rate that changes at every step, and what their parameters were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from restated.local import Local, Sgd

SHAPES = ((2, 2), (3,), (1,), (2, 2))  # of the model's tensors; the first two take weight decay
SIZES = (4, 3, 1, 4)
DECAYED, P = 7, 12
PARALLEL_FIRST = (1, 1, 3, 2, 4, 3)  # six rounds; rounds of one step, then local steps
LOCAL_FIRST = (3, 1, 2, 4, 1, 3)  # after local steps, rounds of one step are no parallel SGD


@dataclass
class Problem:
    """K workers, each with a loss of its own, that is not quadratic, and noise of its own.

    Attributes:
        K: Workers.
        lengths: H of every round.
        local: Makes the optimiser of one worker.
        lr: Learning rate about which that of the steps varies.
        warm: Whether the first step has a learning rate of 0.
        policy: What happens to the optimisers at the end of a round; None for nothing.
        at: Where gradients are taken, (problem, x, t) -> [K, P]; None for at x.
        noted: The workers' parameters [K, P] after every step, and after what followed it.
        weights: [K] of the workers in the model to evaluate, K together; None if they are equal.
    """

    K: int = 3
    lengths: tuple[int, ...] = PARALLEL_FIRST
    local: Callable[[], Local] = Sgd
    lr: float = 0.06
    warm: bool = False
    policy: Callable[[list[Local], int], list[Local]] | None = None
    at: Callable[[Problem, np.ndarray, int], np.ndarray] | None = None
    noted: list[np.ndarray] = field(default_factory=list)
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.locals = [self.local() for _ in range(self.K)]

    @property
    def steps(self) -> int:
        return sum(self.lengths)

    @property
    def start(self) -> np.ndarray:
        """[K, P], equal on all workers."""
        return np.tile(np.linspace(-1.0, 1.5, P), (self.K, 1))

    def rounds(self) -> Iterator[tuple[int, int, int]]:
        """Number, first step and end of every round."""
        begin = 0
        for s, H in enumerate(self.lengths):
            yield s, begin, begin + H
            begin += H

    def rate(self, t: int) -> float:
        """Learning rate of step t, another at every step."""
        return 0.0 if self.warm and t == 0 else self.lr * (1 + 0.4 * float(np.sin(1.7 * t + 0.3)))

    @cached_property
    def _data(self) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng(11)
        factors = draw.standard_normal((self.K, P, 3))
        return factors @ factors.transpose(0, 2, 1) / 3, draw.standard_normal((self.K, P))

    def gradient(self, k: int, x: np.ndarray, t: int) -> np.ndarray:
        """Of worker k at x [P], on its batch of step t."""
        A, c = self._data
        noise = np.random.default_rng([5, k, t]).standard_normal(P)
        return A[k] @ (x - c[k]) + (0.3 + 0.2 * k) * np.sin(2 * x + k) + 0.5 * x + 0.3 * noise

    def gradients(self, x: np.ndarray, t: int) -> np.ndarray:
        """[K, P], where the method takes them."""
        return self.plain(x, t) if self.at is None else self.at(self, x, t)

    def plain(self, x: np.ndarray, t: int) -> np.ndarray:
        """[K, P], of every worker at its own row of x."""
        return np.stack([self.gradient(k, x[k], t) for k in range(self.K)])

    def step(self, x: np.ndarray, g: np.ndarray, t: int) -> np.ndarray:
        """[K, P] after one step of every worker's optimiser along its row of g; noted."""
        lr = self.rate(t)
        x = np.stack([one.step(x[k], g[k], lr) for k, one in enumerate(self.locals)])
        return self.note(x)

    def local_steps(self, x: np.ndarray, begin: int, end: int) -> np.ndarray:
        """A round in which workers know nothing of each other; what follows is not noted yet."""
        for t in range(begin, end):
            x = self.step(x, self.gradients(x, t), t)
            if t + 1 < end:
                self.note(x)
        return x

    def end_round(self, x: np.ndarray, H: int) -> np.ndarray:
        """After the exchange: noted, and the optimisers have their policy."""
        if self.policy is not None:
            self.locals = self.policy(self.locals, H)
        return self.note(x)

    def note(self, x: np.ndarray) -> np.ndarray:
        self.noted.append(x.copy())
        return x


@dataclass(frozen=True, eq=False)
class Case:
    """An object of the package, and the equation that says what it does.

    Attributes:
        name: For the list of tests.
        made: The algorithm.
        path: Notes the parameters of every step.
        given: Of `Problem`.
        ours: What else our own loop has to be told: `gradient`, `at_sync`, `moments_every`,
            `schedule`.
    """

    name: str
    made: Any
    path: Callable[[Problem], None]
    given: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)

    def problem(self) -> Problem:
        return Problem(**self.given)


def equal(x: np.ndarray) -> np.ndarray:
    """Every worker at the mean of all: [K, P] -> [K, P]."""
    return np.tile(sum(x) / len(x), (len(x), 1))


def mixing(n: int, s: int) -> np.ndarray:
    """W [n, n] of round s: doubly stochastic, not symmetric, another from round to round."""
    one = np.roll(np.eye(n), 1, axis=1)
    other = np.eye(n)[np.random.default_rng([2, s % 4]).permutation(n)]
    return 0.5 * np.eye(n) + 0.3 * one + 0.2 * other
