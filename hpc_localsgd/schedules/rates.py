"""Learning rates: pure functions of the global step, never of the round.

    rate(t) = lr * warm(t) * shape(t)

`warm` rises linearly from `warmup_from` to 1 during the first `warmup` steps (Goyal et al. 2017);
`shape` is what the classes below add.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Duration, Units

T = TypeVar("T", bound="Rate")


@dataclass(frozen=True)
class Rate(ABC):
    """The learning rate of step t.

    Attributes:
        lr: Peak learning rate. Under the linear scaling rule it grows with the total batch.
        warmup: Length of the linear warm-up, in any unit.
        warmup_from: Fraction of `lr` at step 0 of a warm-up.
    """

    lr: float = 0.1
    warmup: Duration = 0
    warmup_from: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigurationError(f"rate.lr must be positive, got {self.lr}")

    @abstractmethod
    def shape(self, t: int) -> float:
        """Return the factor of step t, without warm-up."""

    def __call__(self, t: int) -> float:
        """Return the learning rate of step t."""
        warmup = int(self.warmup)
        if t >= warmup:
            return self.lr * self.shape(t)
        return self.lr * (self.warmup_from + (1 - self.warmup_from) * t / warmup)

    def in_steps(self: T, units: Units) -> T:
        """Return the same rate with its durations in steps, which the loop needs."""
        return replace(self, warmup=units.steps(self.warmup, "rate.warmup"))


@dataclass(frozen=True)
class constant(Rate):
    """The same rate at every step (after the warm-up).

    Example:
        >>> rate = constant(lr=0.1, warmup=4)
        >>> [round(rate(t), 3) for t in (0, 1, 2, 4, 100)]
        [0.0, 0.025, 0.05, 0.1, 0.1]
    """

    def shape(self, t: int) -> float:
        """Return 1."""
        del t
        return 1.0


@dataclass(frozen=True)
class multi_step(Rate):
    """A rate multiplied by `factor` at each of the steps `at`.

    Example:
        >>> rate = multi_step(lr=0.1, at=[50, 75], factor=0.1)
        >>> [round(rate(t), 4) for t in (0, 49, 50, 75)]
        [0.1, 0.1, 0.01, 0.001]

    Attributes:
        at: When the rate drops, in any unit.
        factor: What it is multiplied by.
    """

    at: Sequence[Duration] = ("50%", "75%")
    factor: float = 0.1

    def shape(self, t: int) -> float:
        """Return `factor` to the power of the number of drops up to and including step t."""
        return self.factor ** sum(t >= int(drop) for drop in self.at)

    def in_steps(self, units: Units) -> multi_step:
        """Return the same rate with its durations in steps."""
        at = tuple(units.steps(drop, "rate.at") for drop in self.at)
        return replace(self, at=at, warmup=units.steps(self.warmup, "rate.warmup"))


@dataclass(frozen=True)
class cosine(Rate):
    """Half a cosine from `lr` at the end of the warm-up to `floor` at step `until`.

    Source: Loshchilov & Hutter, SGDR, ICLR 2017, without restarts.

    Example:
        >>> rate = cosine(lr=0.1, warmup=10, until=110, floor=0.01)
        >>> [round(rate(t), 3) for t in (0, 5, 10, 60, 110)]
        [0.0, 0.05, 0.1, 0.055, 0.01]

    Attributes:
        floor: The rate at the end, in units of the learning rate.
        until: Where the cosine ends, in any unit.
    """

    floor: float = 0.0
    until: Duration = "100%"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.floor <= self.lr:
            raise ConfigurationError(
                f"rate.floor must be from 0 to rate.lr, which is {self.lr}, got {self.floor}"
            )

    def shape(self, t: int) -> float:
        """Return (floor + (lr - floor) (1 + cos(pi progress)) / 2) / lr."""
        span = max(1, int(self.until) - int(self.warmup))
        progress = min(1.0, (t - int(self.warmup)) / span)
        low = self.floor / self.lr
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))

    def in_steps(self, units: Units) -> cosine:
        """Return the same rate with its durations in steps.

        Raises:
            ConfigurationError: The cosine would end before the warm-up does.
        """
        until = units.steps(self.until, "rate.until")
        warmup = units.steps(self.warmup, "rate.warmup")
        if until <= warmup and units.total != warmup:
            raise ConfigurationError(
                f"rate.until ({self.until}) is step {until}, the warm-up ends at step {warmup}: "
                "the rate would fall to rate.floor at once; give a later end or a shorter warm-up"
            )
        return replace(self, until=until, warmup=warmup)
