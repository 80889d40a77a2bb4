"""The plan of a run, made again from its record: what was to happen, beside what did.

Schedules and learning rates are pure functions, so the rounds of a run follow from its
configuration. Neither torch nor the task is needed: the record says how long the run was to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from hpc_localsgd.analysis.recorded_objects import WRONG, Unplannable, made
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules import local_steps, rates
from hpc_localsgd.schedules.base import Schedule, rounds
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.schedules.rates import Rate
from hpc_localsgd.trajectory import Trajectory, TrajectoryError


@dataclass(frozen=True)
class Planned:
    """The rounds a run was to have.

    Attributes:
        steps: Optimiser steps of the run.
        begins: ``[S]`` step at which each round begins.
        ends: ``[S]`` step at which it ends.
        lr: ``[S]`` learning rate at its first step.
        rate: Learning rate of every step.
        asked: Length the schedule wanted for the last round, which the end of the run may cut.
    """

    steps: int
    begins: np.ndarray
    ends: np.ndarray
    lr: np.ndarray
    rate: Callable[[int], float]
    asked: int

    @property
    def local_steps(self) -> np.ndarray:
        """H of every round, ``[S]``."""
        return self.ends - self.begins

    def until(self, step: int) -> int:
        """Return the rounds that end at or before a step."""
        return int((self.ends <= step).sum())


MOST_ROUNDS = 2_000_000  # a stranger's record may say any number of steps


def planned(run: Trajectory) -> Planned:
    """Plan a recorded run again, from its configuration.

    Args:
        run: The run.

    Raises:
        Unplannable: The length of the run is not known, its schedule is measured or is a class of
            the user's own, or its configuration cannot be read.
    """
    try:
        config = run.config
    except TrajectoryError as error:
        raise Unplannable(str(error)) from error
    units = _units(run, config)
    try:
        rate = made(rates, Rate, config.get("rate"), "rate").in_steps(units)
        schedule = made(local_steps, Schedule, config.get("schedule"), "schedule")
        when = schedule.in_steps(units, int(rate.warmup))
    except (ConfigurationError, *WRONG) as error:
        raise Unplannable(str(error)) from error
    if when.observes:
        raise Unplannable(f"the length of its rounds followed the measured {when.told}")
    return _rounds(when, rate, units.total or 0)


def rate_of(run: Trajectory) -> Callable[[int], float] | None:
    """Return the learning rate of every step from the configuration; None where it is unknown.

    Compared with the record, which has the rate of each round's first step: where the two differ,
    as with a rate of the user's own, nothing is known of the steps between.

    Args:
        run: The run.
    """
    try:
        config = run.config
        rate = made(rates, Rate, config.get("rate"), "rate").in_steps(_units(run, config))
        told = np.array([rate(int(t)) for t in run.rounds.step_begin])
    except (Unplannable, TrajectoryError, ConfigurationError, ValueError, OverflowError):
        return None
    seen = np.isfinite(run.rounds.lr)
    return rate if np.allclose(told[seen], run.rounds.lr[seen], rtol=1e-6, atol=1e-300) else None


def _rounds(when: Schedule, rate: Any, steps: int) -> Planned:
    found = list(islice(rounds(when, rate, steps), MOST_ROUNDS))
    if not found or found[-1].end < steps:
        raise Unplannable(f"it was to have more than {MOST_ROUNDS:,} rounds")
    columns = ([getattr(r, name) for r in found] for name in ("begin", "end", "lr"))
    begins, ends, lr = (np.array(column) for column in columns)
    return Planned(steps, begins, ends, lr, rate, when(found[-1].begin, found[-1].lr))


def steps_per_epoch(run: Trajectory) -> float:
    """Return the steps of one pass over the training data; NaN if unknown.

    Args:
        run: The run.
    """
    recorded = float(run.attrs.get("steps_per_epoch", math.nan))
    if math.isfinite(recorded):
        return recorded
    try:
        epochs = run.config.get("epochs")
    except TrajectoryError:
        return math.nan
    # Files of before there was such an attribute: the length of a whole run tells.
    return _last(run) / float(epochs) if epochs and run.status == "complete" else math.nan


def _steps(run: Trajectory) -> int:
    recorded = int(run.attrs.get("steps", 0))
    if recorded:
        return recorded
    if run.status == "complete" and _last(run):
        return _last(run)
    given = run.config.get("steps")
    if isinstance(given, int) and given > 0:
        return given
    raise Unplannable("its record does not say how long it was to be")


def _last(run: Trajectory) -> int:
    return int(run.rounds.step_end[-1]) if len(run.rounds) else 0


def _units(run: Trajectory, config: dict[str, Any]) -> Units:
    samples_per_step = run.K * int(config.get("batch_per_worker") or 1)
    return Units(steps_per_epoch(run), samples_per_step, _steps(run))
