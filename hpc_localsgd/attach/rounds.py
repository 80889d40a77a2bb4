"""Where in the run we are, and how long the round is that starts now; the same on all ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpc_localsgd.attach.meeting import RATE, ROUND, Everybody, Meetings
from hpc_localsgd.attach.meeting import Place as Met
from hpc_localsgd.schedules.local_steps import Schedule, every, phases, post_local
from hpc_localsgd.types import ConfigurationError, Now

Lengths = Callable[[int, float], int]  # (t, lr) -> H
_WITHOUT_RATE = (every, post_local, phases)  # their H cannot differ between ranks


@dataclass
class Place:
    """What a checkpoint must hold of it.

    Attributes:
        t: Optimiser steps taken, skipped ones included.
        s: Round, counted from 0; -1 before the first.
        begin: First step of the round.
        end: Step at which it ends; equal to t when a new round is due.
        rate: Learning rate of the round's first step.
        used: Whether this rank's optimiser took that step (a GradScaler may have skipped it).
        equal: Whether all workers are known to hold the same parameters.
        parallel: Whether all rounds so far, this one included, had length 1.
        over: Whether the run has ended.
    """

    t: int = 0
    s: int = -1
    begin: int = 0
    end: int = 0
    rate: float = 0.0
    used: bool = False
    equal: bool = False
    over: bool = False
    parallel: bool = True

    @classmethod
    def saved(cls, state: dict[str, Any]) -> Place:
        """Return the place that a checkpoint holds; version 0.1.0 did not say `parallel`."""
        return cls(**{"parallel": state["end"] == state["s"] + 1, **state})

    @property
    def due(self) -> bool:
        """Whether a new round begins with the next step."""
        return self.t == self.end

    @property
    def inside(self) -> bool:
        """Whether local steps have been taken since the last exchange."""
        return self.begin < self.t < self.end

    @property
    def H(self) -> int:
        """Length of the round in steps."""
        return self.end - self.begin

    def __str__(self) -> str:
        if self.over:
            return "over"
        if self.due:
            return f"after round {self.s}" if self.s >= 0 else "not begun"
        return f"round {self.s}: steps {self.begin} to {self.end - 1}"


class Rounds:
    """The schedule, asked once a round.

    The learning rate is read at the first moment at which it is surely that of the round's first
    step: at its first gradient if those are watched, else when the optimiser takes the step. Only
    a schedule that may use it makes the ranks exchange it (a few bytes a round).
    """

    def __init__(
        self,
        schedule: Lengths,
        meetings: Meetings,
        steps: int | None,
        in_warm_up: Lengths = lambda t, lr: 0,
    ) -> None:
        """Begin at step 0.

        Args:
            schedule: Length of the round that starts at step t with learning rate lr.
            meetings: Who must agree.
            steps: Of the whole run, if known.
            in_warm_up: Length of a round that starts while the rate warms up, else 0.
        """
        self.place, self.steps = Place(), steps
        self._given = self._schedule = schedule
        self._meetings, self._in_warm_up = meetings, in_warm_up
        self._uses_rate = type(schedule) not in _WITHOUT_RATE

    def begin(self, rate: float, used: bool) -> None:
        """Begin a round at the step that comes now.

        Raises:
            ConfigurationError: The ranks' rates differ, or the schedule gave no length.
        """
        place = self.place
        if self._uses_rate:
            with self._meetings.at(RATE, place.t):
                here = Met(RATE, place.t, place.t, rate, used)
                rate = self._meetings.compare(here, strict=True).rate
        H = int(self._in_warm_up(place.t, rate) or self._schedule(place.t, rate))
        if H < 1:
            raise ConfigurationError(f"the schedule gave a round of {H} steps at step {place.t}")
        left = sys.maxsize if self.steps is None else self.steps - place.t
        place.s, place.begin, place.end = place.s + 1, place.t, place.t + min(H, left)
        place.rate, place.used = rate, used
        place.parallel = place.parallel and place.H == 1

    @property
    def observes(self) -> bool:
        """Whether the schedule wants to know how far the workers were apart."""
        return isinstance(self._schedule, Schedule) and self._schedule.observes

    def observe(self, consensus_distance: float) -> None:
        """Tell the schedule mean_k ||x_k - mean||^2 before an exchange."""
        if isinstance(self._schedule, Schedule):
            self._schedule = self._schedule.observe(consensus_distance)

    def observed(self) -> dict[str, Any]:
        """Return what the schedule has observed, for a checkpoint."""
        return self._schedule.observed() if isinstance(self._schedule, Schedule) else {}

    def having_observed(self, values: dict[str, Any]) -> Lengths:
        """Return the schedule that has observed this, from a checkpoint.

        Raises:
            ConfigurationError: It was another schedule.
        """
        if isinstance(self._given, Schedule):
            return self._given.having_observed(values)
        return self._given

    def load(self, place: Place, observed: dict[str, Any]) -> None:
        """Go on from a saved place."""
        self.place, self._schedule = place, self.having_observed(observed)

    def agree(
        self, what: str = ROUND, finite: bool = True, tolerant: bool = False, digest: int = 0
    ) -> Everybody:
        """Stop with an error where the ranks would wait for each other. A collective, not billed.

        Args:
            what: The operation in which they are.
            finite: Whether this rank's parameters are.
            tolerant: It is no error if those of some ranks are not.
            digest: Of this rank's parameters, where workers should differ; else 0.

        Returns:
            What all ranks know of each other then.

        Raises:
            ConfigurationError: On all ranks alike, naming two that are out of step.
        """
        p = self.place
        begin = p.begin if p.begin < p.t else p.t  # one rank may have begun the next round already
        if what != ROUND:
            return self._meetings.compare(Met(what, p.t, finite=finite), tolerant=tolerant)
        here = Met(what, p.t, begin, p.rate, p.used, finite, digest)
        all_of_us = self._meetings.compare(here, self._uses_rate, tolerant)
        p.rate = all_of_us.rate
        return all_of_us

    def now(self, t: int, last: bool = False) -> Now:
        """What an algorithm may know about step t of this round."""
        p = self.place
        last = last or p.end == self.steps
        return Now(t, p.s, p.H, t - p.begin, p.rate, p.rate, last, p.parallel)
