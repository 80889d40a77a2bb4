"""What is known of a run that continues: the latest values, and sums since the last line."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from hpc_localsgd.run.finished_rounds import (
    COMPUTE_S,
    EXCHANGE_S,
    LAST_H,
    LAST_RATE,
    LOSS_HERE,
    ROUND_LOSS,
    ROUNDS_LOSS,
    STEPS_OF_ROUNDS,
)

SPREAD = "spread"
_LOSSES = ("train/loss", ROUND_LOSS)


@dataclass
class Since:
    """What has come in since the last line.

    Attributes:
        t: Steps taken at that line.
        at_s: When it was written, by the monotonic clock.
        steps: Of the rounds that ended since.
        loss: Sum over those steps of the mean training loss of all workers.
        compute_s: Seconds of a worker between exchanges, in those rounds.
        exchange_s: Seconds of a worker in exchanges, waiting included.
    """

    t: int = 0
    at_s: float = 0.0
    steps: float = 0.0
    loss: float = 0.0
    compute_s: float = 0.0
    exchange_s: float = 0.0


@dataclass
class State:
    """A run as rank 0 knows it.

    Attributes:
        steps: Of the whole run.
        steps_per_epoch: NaN where the data has no end.
        samples_per_step: Of all workers together.
        t: Steps taken.
        begun_at: Step at which this job began.
        begun_s: When it did, by the monotonic clock.
        latest: Name -> (step, value) of the latest value.
        since: What came in since the last line.
    """

    steps: int = 0
    steps_per_epoch: float = math.nan
    samples_per_step: int = 0
    t: int = 0
    begun_at: int = 0
    begun_s: float = field(default_factory=time.monotonic)
    latest: dict[str, tuple[int, float]] = field(default_factory=dict)
    since: Since = field(default_factory=Since)

    def begin(self, t: int) -> None:
        """Start the clock at step t."""
        self.t = self.begun_at = t
        self.begun_s = time.monotonic()
        self.since = Since(t, self.begun_s)

    def take(self, t: int, values: dict[str, float]) -> None:
        """Take what the recorder shows after t steps."""
        self.t = max(self.t, t)
        self.latest |= {name: (t, value) for name, value in values.items()}
        if n := values.get(STEPS_OF_ROUNDS, 0.0):
            self.since.steps += n
            self.since.loss += n * values[ROUNDS_LOSS]
            self.since.compute_s += values[COMPUTE_S]
            self.since.exchange_s += values[EXCHANGE_S]

    def said(self) -> None:
        """Begin to collect for the next line."""
        self.since = Since(self.t, time.monotonic())

    def elapsed_s(self) -> float:
        """Return the seconds since this job began to train."""
        return time.monotonic() - self.begun_s

    def left_s(self) -> float:
        """Return the seconds to the end at the pace of this job so far; NaN before a step."""
        done = self.t - self.begun_at
        return self.elapsed_s() / done * (self.steps - self.t) if done else math.nan

    def samples_per_s(self) -> float:
        """Return the samples of all workers a second, since the last line; NaN without a step."""
        steps, seconds = self.t - self.since.t, time.monotonic() - self.since.at_s
        return steps * self.samples_per_step / seconds if steps and seconds > 0 else math.nan

    def share(self) -> float:
        """Return the share of exchanges in the rounds since the last line; NaN if none ended."""
        whole_s = self.since.compute_s + self.since.exchange_s
        return self.since.exchange_s / whole_s if whole_s else math.nan

    def loss(self) -> tuple[float, bool]:
        """Return a training loss and whether it is of all workers.

        The mean over the steps of the rounds that ended since the last line; within a long round
        that of the step just taken, by the workers of this rank where others were not asked.
        """
        if self.since.steps:
            return self.since.loss / self.since.steps, True
        step, value = max(self.latest.get(name, (-1, math.nan)) for name in _LOSSES)
        here, of_rank = self.latest.get(LOSS_HERE, (-1, math.nan))
        return (of_rank, False) if here > step else (value, True)

    def value(self, name: str) -> tuple[float, int]:
        """Return the latest value of this name and its step; NaN and -1 if there is none."""
        step, value = self.latest.get(name, (-1, math.nan))
        return value, step

    @property
    def rate(self) -> float:
        """The learning rate that the latest round began with."""
        return self.value(LAST_RATE)[0]

    @property
    def H(self) -> float:
        """The length of the latest round."""
        return self.value(LAST_H)[0]
