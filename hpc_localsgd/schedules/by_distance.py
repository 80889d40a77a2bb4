"""A schedule that follows the consensus distance: how far apart workers are before an exchange."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import ClassVar

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.base import Schedule, check_bounds
from hpc_localsgd.schedules.rates import Rate


@dataclass(frozen=True)
class spread_triggered(Schedule):
    """H controlled so that the spread before an exchange stays near a target.

        H <- H clip(target / spread, 1/2, 2),  between at_least and at_most

    since a spread that grows like a random walk is proportional to H. It follows what it observes,
    so it cannot be planned. All ranks see the same spread and find the same H; H stays where the
    spread is not finite.

    Source: after Kamp et al., Communication-efficient distributed online prediction by dynamic
    model synchronization, 2014, which averages when a worker's distance exceeds a threshold.
    Here differs: their test needs a message at every step; this predicts the step instead.

    Example:
        >>> schedule = spread_triggered(target=1e-3, at_least=4)
        >>> schedule(t=0, lr=0.1)
        4
        >>> schedule.observe(5e-4)(t=4, lr=0.1)  # half the target: twice the steps
        8
        >>> schedule.observe(8e-4)(t=4, lr=0.1)
        5

    Attributes:
        target: mean_k ||x_k - mean||^2 before an exchange, even if some remains after it. In a
            record this is `spread`, and `before_exchange/spread` where workers stay different
            (gossip).
        at_least: H of the first round, and the shortest.
        at_most: The longest round.
    """

    observes: ClassVar[bool] = True

    target: float = 1e-3
    at_least: int = 1
    at_most: int = 1024
    _H: int | None = field(default=None, repr=False)  # of the rounds to come

    def __post_init__(self) -> None:
        check_bounds(self.at_least, self.at_most, "spread_triggered")
        if self._H is not None and not (type(self._H) is int and self._H >= 1):
            raise ConfigurationError(
                f"spread_triggered cannot resume with rounds of {self._H!r} steps"
            )
        if not self.target > 0:
            raise ConfigurationError(f"spread_triggered.target must be > 0, got {self.target}")

    def __call__(self, t: int, lr: float) -> int:
        """Return H: `at_least` before anything is observed."""
        del t, lr
        return self.at_least if self._H is None else self._H

    def observe(self, measured: float) -> spread_triggered:
        """Return the schedule whose rounds are longer or shorter, by at most a factor of 2."""
        H = self.at_least if self._H is None else self._H
        if not isfinite(measured):
            return replace(self, _H=H)
        factor = 2.0 if measured <= 0 else min(2.0, max(0.5, self.target / measured))
        return replace(self, _H=max(self.at_least, min(self.at_most, round(H * factor))))

    def longest(self, rate: Rate, steps: int) -> int:
        """Return the length of the longest round that there may be."""
        del rate
        return min(steps, self.at_most)
