"""Successive rounds of the same length: the compact form of a list of sync steps, and its costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import numpy as np

from hpc_localsgd.schedules.base import Round, Schedule, rounds
from hpc_localsgd.schedules.rates import Rate
from hpc_localsgd.types import Now

Payload: TypeAlias = Callable[[Now], "float | np.ndarray"]  # bytes in the round that `now` ends
Seconds: TypeAlias = Callable[[Now], float]  # of its exchanges

CYCLE = 240  # rounds of a stretch that are computed; the following ones repeat their costs


@dataclass(frozen=True)
class Stretch:
    """Rounds of the same length, one after another.

    Attributes:
        begin: First step of the first round.
        end: Step after the last one; the last sync comes after `end` optimiser steps.
        H: Length of each round.
        lr_first: Learning rate at the beginning of the first round.
        lr_last: Learning rate at the beginning of the last round.
        lr_high: The highest at the beginning of any of the rounds.
        payload_bytes: Bytes a worker sends in all these rounds, the average over the workers.
        exchange_s: Predicted seconds a worker spends in their exchanges; NaN without a network.
    """

    begin: int
    end: int
    H: int
    lr_first: float
    lr_last: float
    lr_high: float
    payload_bytes: float
    exchange_s: float

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return (self.end - self.begin) // self.H

    @property
    def syncs(self) -> range:
        """Numbers of optimiser steps taken when the exchanges happen."""
        return range(self.begin + self.H, self.end + 1, self.H)

    @property
    def first(self) -> Round:
        """Its first round."""
        return Round(self.begin, self.begin + self.H, self.lr_first)

    @property
    def last(self) -> Round:
        """Its last round."""
        return Round(self.end - self.H, self.end, self.lr_last)


def stretches(
    schedule: Schedule, rate: Rate, steps: int, payload: Payload, exchange_s: Seconds | None
) -> Iterator[tuple[Stretch, np.ndarray]]:
    """Yield the rounds of a run, equal lengths together, with the bytes each worker sends [K].

    Costs are computed for the first 240 rounds of a stretch and repeated for the rest, which is
    exact for exchanges that recur every 2, 3, 4, ..., 16, ... rounds, whatever divides 240; else it
    is right on average.

    Args:
        schedule: Length of a round; its durations in steps.
        rate: Learning rate; its durations in steps.
        steps: Of the run.
        payload: Bytes a worker sends in the round that `now` ends; [K] where workers differ.
        exchange_s: Predicted seconds of the exchanges of that round; called in order.
    """
    numbered, parallel = enumerate(rounds(schedule, rate, steps)), True
    for H, same in groupby(numbered, key=lambda item: item[1].H):
        costs, first, high = _Costs(payload, exchange_s), None, 0.0
        parallel = parallel and H == 1
        for s, r in same:
            last = r.end == steps
            if costs.repeats and not last:
                costs.repeat()
            else:
                costs.add(Now(r.end - 1, s, H, H - 1, rate(r.end - 1), r.lr, last, parallel))
            first, high = first or r, max(high, r.lr)
        assert first is not None  # a group has a member
        stretch = Stretch(
            begin=first.begin,
            end=r.end,
            H=H,
            lr_first=first.lr,
            lr_last=r.lr,
            lr_high=high,
            payload_bytes=float(costs.sent.mean()),
            exchange_s=costs.seconds,
        )
        yield stretch, costs.sent


class _Costs:
    """Sum of the costs of one stretch's rounds; from the 241st on, that of the round 240 before."""

    def __init__(self, payload: Payload, exchange_s: Seconds | None) -> None:
        self._payload, self._exchange_s = payload, exchange_s
        self._known: list[tuple[float | np.ndarray, float]] = []
        self._count = 0
        self.sent, self.seconds = np.zeros(1), 0.0

    @property
    def repeats(self) -> bool:
        """Whether a round costs what one before it did."""
        return len(self._known) >= CYCLE

    def add(self, now: Now) -> None:
        """Add a round at its computed cost."""
        seconds = math.nan if self._exchange_s is None else self._exchange_s(now)
        self._known.append((self._payload(now), seconds))
        self._count_one(*self._known[-1])

    def repeat(self) -> None:
        """Add a round at the cost of the one 240 before it."""
        self._count_one(*self._known[self._count % CYCLE])

    def _count_one(self, sent: float | np.ndarray, seconds: float) -> None:
        self._count += 1
        self.sent = self.sent + sent
        self.seconds += seconds
