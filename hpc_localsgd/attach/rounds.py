"""Where in the run we are, and how long the round is that starts now; the same on all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpc_localsgd.attach.collectives import RATE, ROUND, Comparison, RankState
from hpc_localsgd.attach.context import AttachContext
from hpc_localsgd.engine.agreement import check_equal_start
from hpc_localsgd.engine.position import RoundPosition
from hpc_localsgd.schedules.base import round_length
from hpc_localsgd.schedules.local_steps import Schedule, every, phases, post_local
from hpc_localsgd.types import Now

_WITHOUT_RATE = (every, post_local, phases)  # their H cannot differ between ranks
BEGIN_EQUAL = (
    "leave out attach(broadcast=False), so that all begin with rank 0's, or load the same before it"
)


@dataclass
class AttachedPosition(RoundPosition):
    """Position of an attached run: beside the place in a round, what a checkpoint must hold.

    Attributes:
        rate: Learning rate of the round's first step, as the ranks agreed on it.
        used: Whether this rank's optimiser took that step (a GradScaler may have skipped it).
        equal: Whether all workers are known to hold the same parameters.
        over: Whether the run has ended.
    """

    rate: float = 0.0
    used: bool = False
    equal: bool = False
    over: bool = False

    @classmethod
    def saved(cls, state: dict[str, Any]) -> AttachedPosition:
        """Return the place that a checkpoint holds; version 0.1.0 did not say `parallel`."""
        return cls(**{"parallel": state["end"] == state["s"] + 1, **state})

    @property
    def inside(self) -> bool:
        """Whether local steps have been taken since the last exchange."""
        return self.begin < self.t < self.end

    def __str__(self) -> str:
        if self.over:
            return "over"
        if self.due:
            return f"after round {self.s}" if self.s >= 0 else "not begun"
        return f"round {self.s}: steps {self.begin} to {self.end - 1}"


@dataclass(frozen=True)
class FromFunction(Schedule):
    """A user's function as a schedule: it observes nothing, and has no durations.

    Attributes:
        length: (t, lr) -> H.
    """

    length: Callable[[int, float], int]

    def __call__(self, t: int, lr: float) -> int:
        """Return what the function does."""
        return self.length(t, lr)

    def __repr__(self) -> str:
        """Return the function's name: its address is another one on every rank."""
        return str(getattr(self.length, "__qualname__", type(self.length).__qualname__))


class AgreedRounds:
    """The schedule, asked once a round.

    The learning rate is read at the first moment at which it is surely that of the round's first
    step: at its first gradient if those are watched, else when the optimiser takes the step. Only
    a schedule that may use it makes the ranks exchange it (a few bytes a round).

    Attributes:
        place: Where in the run we are.
        schedule: Of the rounds to come, with what it has observed.
    """

    def __init__(self, context: AttachContext, in_warm_up: Callable[[int, float], int]) -> None:
        """Begin at step 0.

        Args:
            context: Of the run; its schedule is asked, and its ranks must agree.
            in_warm_up: Length of a round that starts while the rate warms up, else 0.
        """
        self.place, self.steps = AttachedPosition(), context.steps
        self._given = self.schedule = context.schedule
        self._collectives, self._in_warm_up = context.collectives, in_warm_up
        self._algorithm = context.algorithm
        self._uses_rate = type(self._given) not in _WITHOUT_RATE

    def begin(self, rate: float, used: bool) -> None:
        """Begin a round at the step that comes now.

        Raises:
            ConfigurationError: The ranks' rates differ, the schedule gave no length, or workers
                that begin apart cannot be trained by this algorithm; on all ranks alike.
        """
        place = self.place
        if self._uses_rate:
            with self._collectives.at(RATE, place.t):
                here = RankState(RATE, place.t, place.t, rate, used)
                rate = self._collectives.compare(here, strict=True).rate
        warm_up = self._in_warm_up(place.t, rate)
        schedule = every(warm_up) if warm_up else self.schedule
        following = place.next_round(round_length(schedule, place.t, rate, self.steps))
        if place.s < 0 and not place.equal:
            check_equal_start(self._algorithm, following.H, BEGIN_EQUAL)
        self.place = following
        self.place.rate, self.place.used = rate, used

    def having_observed(self, values: dict[str, Any]) -> Schedule:
        """Return the schedule that has observed this, from a checkpoint.

        Raises:
            ConfigurationError: It was another schedule.
        """
        return self._given.having_observed(values)

    def load(self, place: AttachedPosition, observed: dict[str, Any]) -> None:
        """Restore a saved place."""
        self.place, self.schedule = place, self.having_observed(observed)

    def agree(
        self, what: str = ROUND, finite: bool = True, tolerant: bool = False, digest: int = 0
    ) -> Comparison:
        """Stop with an error where the ranks would wait for each other. A collective, not billed.

        Args:
            what: The operation in which they are.
            finite: Whether this rank's parameters are.
            tolerant: Accept it if those of some ranks are not.
            digest: Of this rank's parameters, where workers should differ; else 0.

        Returns:
            What all ranks know of each other then.

        Raises:
            ConfigurationError: On all ranks alike, naming two that are out of step.
        """
        p = self.place
        begin = p.begin if p.begin < p.t else p.t  # one rank may have begun the next round already
        if what != ROUND:
            return self._collectives.compare(RankState(what, p.t, finite=finite), tolerant=tolerant)
        here = RankState(what, p.t, begin, p.rate, p.used, finite, digest)
        found = self._collectives.compare(here, self._uses_rate, tolerant)
        p.rate = found.rate
        return found

    def now(self, t: int, last: bool = False) -> Now:
        """Return what an algorithm may know about step t of this round."""
        p = self.place
        return p.at_step(t, p.rate, p.rate, last or p.end == self.steps)
