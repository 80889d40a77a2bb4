"""A schedule that follows the training loss: long rounds while it is high, short ones later."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, isfinite, sqrt
from typing import ClassVar

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.base import Schedule, Told
from hpc_localsgd.schedules.duration import Duration, Units
from hpc_localsgd.schedules.rates import Rate


@dataclass(frozen=True)
class adacomm(Schedule):
    """AdaComm: H falls with the square root of the training loss F, once in each interval.

        H <- ceil(sqrt(F / F_0) at_first)   where that is less than H, else max(1, floor(decay H))

    F is the mean over an interval's rounds of the loss at their last steps, of all workers'
    batches; F_0 that of the first round. It follows what it observes, so it cannot be planned. All
    ranks see the same loss and find the same H; losses that are not finite are left out.

    Source: Wang & Joshi, Adaptive communication strategies to achieve the best error-runtime
    trade-off in local-update SGD, MLSys 2019, arXiv:1810.08313.
    Here differs: intervals are steps, not seconds, so that a run can be repeated; they end with a
    round. It is their rule for a constant learning rate.

    Example:
        >>> schedule = adacomm(at_first=8, interval=8)
        >>> schedule(t=0, lr=0.1)
        8
        >>> schedule.observe(2.0).observe(0.125)(t=16, lr=0.1)  # 1/16 of the loss: a quarter of H
        2
        >>> schedule.observe(2.0).observe(2.0)(t=16, lr=0.1)  # no progress: half in any case
        4

    Attributes:
        at_first: H at the beginning, and the longest.
        interval: Time between two changes of H, in any unit.
        decay: What H is multiplied by where the loss would not make it less.
    """

    observes: ClassVar[bool] = True
    told: ClassVar[Told] = "loss"

    at_first: int = 16
    interval: Duration = "5%"
    decay: float = 0.5
    _H: int | None = field(default=None, repr=False)  # of the rounds to come
    _first: float | None = field(default=None, repr=False)  # F_0
    _sum: float = field(default=0.0, repr=False)  # of the losses in this interval
    _rounds: int = field(default=0, repr=False)  # of which it is the sum
    _steps: int = field(default=0, repr=False)  # of this interval so far

    def __post_init__(self) -> None:
        if self.at_first < 1:
            raise ConfigurationError(
                f"adacomm.at_first must be at least 1 step, got {self.at_first}"
            )
        if not 0 < self.decay <= 1:
            raise ConfigurationError(f"adacomm.decay must be from 0 to 1, got {self.decay}")
        counts = [1 if self._H is None else self._H, 1 + self._rounds, 1 + self._steps]
        sums = [0.0 if self._first is None else self._first, self._sum]
        if not (
            all(type(count) is int and count >= 1 for count in counts)
            and all(type(each) is float and isfinite(each) for each in sums)
        ):
            raise ConfigurationError(f"adacomm cannot resume with {self.observed()}")

    def __call__(self, t: int, lr: float) -> int:
        """Return H: `at_first` before anything is observed."""
        del t, lr
        return self.at_first if self._H is None else self._H

    def in_steps(self, units: Units, warmup: int = 0) -> adacomm:
        """Return the same schedule with `interval` in steps."""
        del warmup
        return replace(self, interval=units.steps(self.interval, "adacomm.interval"))

    def observe(self, measured: float) -> adacomm:
        """Return the schedule told of one more round: another H where an interval is over."""
        H = self(0, 0.0)
        told = replace(self, _H=H, _steps=self._steps + H)
        if isfinite(measured):
            if self._first is None:
                return replace(told, _first=measured)
            told = replace(told, _sum=self._sum + measured, _rounds=self._rounds + 1)
        over = told._steps >= int(self.interval) and told._rounds > 0
        return told._looked() if over else told

    def _looked(self) -> adacomm:
        """Return the schedule at the beginning of the next interval."""
        H, first = self(0, 0.0), self._first or 0.0
        ratio = self._sum / self._rounds / first if first > 0 else 1.0
        asked = ceil(sqrt(max(0.0, ratio)) * self.at_first)
        H = max(1, asked) if asked < H else max(1, int(self.decay * H))
        return replace(self, _H=H, _sum=0.0, _rounds=0, _steps=0)

    def longest(self, rate: Rate, steps: int) -> int:
        """Return the length of the longest round, the first."""
        del rate
        return min(steps, self.at_first)
