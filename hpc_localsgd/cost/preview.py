"""A run seen before it starts: every sync step, what is sent, and how long that takes.

A schedule and a learning rate are pure functions, so all of this is known in advance. Only seconds
are predictions, and only if a network and the time of a step are given.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hpc_localsgd.cost.round_runs import Payload, Seconds, Stretch, stretches
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.base import Round, Schedule
from hpc_localsgd.schedules.rates import Rate

POINTS = 72  # of the curves of the learning rate and of H


@dataclass(frozen=True)
class Preview:
    """Facts of a run that are known before it starts.

    Attributes:
        steps: Optimiser steps of the run.
        stretches: All rounds, those of equal length together.
        asked: Length the schedule wanted for the last round, which the end of the run may cut.
        curve: (step, learning rate, H of the round it belongs to) at evenly spaced steps.
        payload_bytes: Bytes a worker sends in the run, the average over the workers.
        busiest_bytes: Bytes the busiest worker sends.
        exchange_s: Predicted seconds a worker spends in exchanges; NaN without a network.
        parallel_bytes: Bytes a worker would send in parallel SGD, one exchange a step.
        parallel_s: Predicted seconds of those; NaN without a network.
        step_s: Seconds of a local step; NaN if not known.
        steps_per_epoch: Steps of one pass over the data; NaN if not known.
    """

    steps: int
    stretches: tuple[Stretch, ...]
    asked: int
    curve: tuple[tuple[int, float, int], ...] = field(repr=False)
    payload_bytes: float
    busiest_bytes: float
    exchange_s: float
    parallel_bytes: float
    parallel_s: float
    step_s: float
    steps_per_epoch: float

    @property
    def rounds(self) -> int:
        """Number of rounds, which is the number of exchanges."""
        return sum(stretch.rounds for stretch in self.stretches)

    @property
    def last(self) -> Round:
        """The last round."""
        return self.stretches[-1].last

    @property
    def forced(self) -> bool:
        """Whether the end of the run cuts the last round short."""
        return self.asked > self.last.H

    @property
    def longest(self) -> Round:
        """The first of the longest rounds."""
        return max(self.stretches, key=lambda stretch: stretch.H).first

    @property
    def shortest(self) -> Round:
        """The first of the shortest rounds."""
        return min(self.stretches, key=lambda stretch: stretch.H).first

    @property
    def share(self) -> float:
        """Bytes sent, as a fraction of parallel SGD's."""
        return self.payload_bytes / self.parallel_bytes if self.parallel_bytes else 0.0

    @property
    def compute_s(self) -> float:
        """Seconds of local steps; NaN if the time of a step is not known."""
        return self.steps * self.step_s

    @property
    def total_s(self) -> float:
        """Seconds of the run, nothing overlapped, measuring and checkpoints left out."""
        return self.compute_s + self.exchange_s

    def epochs(self, steps: float) -> float:
        """Return steps as passes over the data; NaN if unknown."""
        return steps / self.steps_per_epoch


def preview(
    schedule: Schedule,
    rate: Rate,
    steps: int,
    payload: Payload,
    *,
    exchange_s: Seconds | None = None,
    parallel_bytes: float = float("nan"),
    parallel_s: float = float("nan"),
    step_s: float = float("nan"),
    steps_per_epoch: float = float("nan"),
) -> Preview:
    """Look at a run of `steps` steps in advance.

    Args:
        schedule: Length of a round; its durations in steps.
        rate: Learning rate; its durations in steps.
        steps: Of the run.
        payload: Bytes a worker sends in the round that `now` ends; [K] where workers differ.
        exchange_s: Predicted seconds of the exchanges of that round, called in order.
        parallel_bytes: Bytes a worker would send in one step of parallel SGD.
        parallel_s: Predicted seconds of that exchange.
        step_s: Seconds of a local step.
        steps_per_epoch: Steps of one pass over the data.

    Raises:
        ConfigurationError: The run has no step.
    """
    if steps < 1:
        raise ConfigurationError(f"a run of {steps} steps has nothing to plan: give at least one")
    found, sent = [], np.zeros(1)
    for stretch, per_worker in stretches(schedule, rate, steps, payload, exchange_s):
        found.append(stretch)
        sent = sent + per_worker
    final = found[-1].last
    return Preview(
        steps=steps,
        stretches=tuple(found),
        asked=schedule(final.begin, final.lr),
        curve=_curve(found, rate, steps),
        payload_bytes=float(sent.mean()),
        busiest_bytes=float(sent.max()),
        exchange_s=sum(stretch.exchange_s for stretch in found),
        parallel_bytes=parallel_bytes * steps,
        parallel_s=parallel_s * steps,
        step_s=step_s,
        steps_per_epoch=steps_per_epoch,
    )


def _curve(stretches: list[Stretch], rate: Rate, steps: int) -> tuple[tuple[int, float, int], ...]:
    points = sorted({round(i * (steps - 1) / (POINTS - 1)) for i in range(POINTS)})
    ends = [stretch.end for stretch in stretches]
    where = np.searchsorted(ends, points, side="right")
    return tuple((t, rate(t), stretches[i].H) for t, i in zip(points, where, strict=True))
