"""What a schedule is: the length of a round, what may change it, and the rounds that follow.

A schedule may follow the consensus distance of the workers, or their loss. It is told that of every
round, which is the same number on all ranks, and answers with the schedule of the rounds to come: a
pure function still, with what it has observed in fields whose names begin with an underscore.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.schedules.rates import Rate

MOMENTS = 1000  # of a run, at which the length of its rounds is looked at
S = TypeVar("S", bound="Schedule")
Told: TypeAlias = Literal["spread", "loss"]


class Schedule(ABC):
    """Length of the round that starts at step t, where the learning rate is lr.

    Attributes:
        observes: Whether `observe` is called at the end of every round, with what is `told`:
            "spread", the consensus distance mean_k ||x_k - mean||^2 before the exchange, or "loss",
            the mean over the workers of the loss of their last batch. Neither is billed. The spread
            costs a copy of the parameters, and one number a worker where the algorithm leaves all
            workers at their mean, an average of the parameters elsewhere; the loss one number.
    """

    observes: ClassVar[bool] = False
    told: ClassVar[Told] = "spread"

    @abstractmethod
    def __call__(self, t: int, lr: float) -> int:
        """Return H >= 1, the length in steps of the round that starts now."""

    def in_steps(self: S, units: Units, warmup: int = 0) -> S:
        """Return the same schedule with its durations in steps, which the loop needs.

        Args:
            units: What turns durations into steps.
            warmup: Steps of the learning rate's warm-up.
        """
        del units, warmup
        return self

    def observe(self: S, measured: float) -> S:
        """Return the schedule of the rounds to come.

        Args:
            measured: What was `told` of the round that ends, NaN or infinite where a worker's
                numbers are.
        """
        del measured
        return self

    def observed(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: plain values, none if nothing is observed."""
        return {f.name[1:]: getattr(self, f.name) for f in _of_observing(self)}

    def having_observed(self: S, values: dict[str, Any]) -> S:
        """Return the schedule that `observed` gave these values.

        Raises:
            ConfigurationError: They are those of another schedule.
        """
        if set(values) != set(self.observed()):
            raise ConfigurationError(
                f"{self} observes {sorted(self.observed())}, and was given {sorted(values)}"
            )
        mine: Any = self
        return (
            self
            if not values
            else replace(mine, **{f"_{name}": value for name, value in values.items()})
        )

    def longest(self, rate: Rate, steps: int) -> int:
        """Return the length of the longest round of a run of so many steps, by a sample of them."""
        moments = {i * (steps - 1) // MOMENTS for i in range(MOMENTS + 1)}
        return min(steps, max(self(t, rate(t)) for t in moments))


@dataclass(frozen=True)
class Round:
    """One planned round: steps begin..end-1, then an exchange. `lr` is that of its first step."""

    begin: int
    end: int
    lr: float

    @property
    def H(self) -> int:
        """Length in steps."""
        return self.end - self.begin


def round_length(schedule: Schedule, t: int, lr: float, steps: int | None) -> int:
    """Return H of the round that starts at t, shortened to end with the run.

    Args:
        schedule: Says how long it is to be.
        t: First step of the round.
        lr: Learning rate of that step.
        steps: Of the run; None if it has no end.

    Raises:
        ConfigurationError: The schedule gave no step at all.
    """
    H = int(schedule(t, lr))
    if H < 1:
        raise ConfigurationError(f"the schedule gave a round of {H} steps at step {t}")
    return H if steps is None else min(H, steps - t)


def rounds(schedule: Schedule, rate: Rate, steps: int) -> Iterator[Round]:
    """Yield all rounds of a run of `steps` steps, known before anything starts."""
    t = 0
    while t < steps:
        H = round_length(schedule, t, rate(t), steps)
        yield Round(t, t + H, rate(t))
        t += H


def _of_observing(schedule: Any) -> list[Any]:
    """Return the fields that hold what a schedule has observed."""
    if not is_dataclass(schedule):
        return []
    return [f for f in fields(schedule) if f.name.startswith("_")]


def check_length(H: int, name: str) -> None:
    """Check that a round has a step.

    Raises:
        ConfigurationError: It has none; names the option.
    """
    if H < 1:
        raise ConfigurationError(f"{name} must be at least 1 step, got {H}")


def check_bounds(at_least: int, at_most: int, schedule: str) -> None:
    """Check that there is a length between the shortest and the longest.

    Raises:
        ConfigurationError: There is none.
    """
    check_length(at_least, f"{schedule}.at_least")
    if at_most < at_least:
        raise ConfigurationError(
            f"{schedule}.at_most is {at_most}, less than {schedule}.at_least, which is {at_least}"
        )
