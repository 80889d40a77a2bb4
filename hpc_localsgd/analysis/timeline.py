"""The time of every worker, round by round: when it computed, waited and transferred.

`/rounds` holds how long each worker did what in each round, not when. A worker's round begins where
its round before ended, and a round is computing, then waiting for the slowest, then the transfer:
this is the order in which the loop does them. What lies between rounds (evaluation, checkpoints,
probes) is not training and takes no time here. Where the average overlaps with backward, only what
of it was not hidden is seen as waiting and transferring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.analysis.waiting import waiting

if TYPE_CHECKING:
    from hpc_localsgd.trajectory import Rounds, Trajectory

KINDS = ("compute_s", "wait_s", "transfer_s")  # in the order of a round


@dataclass(frozen=True)
class Timeline:
    """Where each part of each round of each worker lies, in seconds since the first round began.

    Attributes:
        rounds: Numbers of the rounds ``[n]``.
        begin_s: Kind -> begin of the part ``[n, K]``; NaN where a worker has no such round.
        long_s: Kind -> its length ``[n, K]``.
        names: Of the workers, by their ranks where each has one of its own ``[K]``.
        modelled: Whether waiting and transferring come from a cost model.
    """

    rounds: np.ndarray
    begin_s: dict[str, np.ndarray]
    long_s: dict[str, np.ndarray]
    names: tuple[str, ...]
    modelled: bool

    @property
    def end_s(self) -> float:
        """The end of the last part."""
        last = KINDS[-1]
        ends = self.begin_s[last] + self.long_s[last]
        return float(np.nanmax(ends)) if np.isfinite(ends).any() else 0.0


def timeline(run: Trajectory, rounds: slice = slice(None)) -> Timeline:
    """Return the timeline of a run, or of some of its rounds, which then begin at 0.

    Args:
        run: The run.
        rounds: Which rounds.
    """
    table = run.rounds
    long_s = {kind: np.asarray(table[kind][rounds], float) for kind in KINDS}
    whole_s = np.sum([np.nan_to_num(part) for part in long_s.values()], axis=0)
    begin_s, at = {}, np.cumsum(whole_s, axis=0) - whole_s
    for kind in KINDS:
        begin_s[kind] = np.where(np.isfinite(long_s[kind]), at, np.nan)
        at = at + np.nan_to_num(long_s[kind])
    numbers = np.arange(len(table))[rounds]
    names, K = waiting(run).names, whole_s.shape[1]
    if len(names) != K:  # several workers a rank
        names = tuple(f"worker {k}" for k in range(K))
    return Timeline(numbers, begin_s, long_s, names, str(run.attrs["clock"]) == "modelled")


def around_the_switch(rounds: Rounds, most: int) -> slice:
    """Return rounds to look at: those around the first longer one, else the first.

    Args:
        rounds: Of the run.
        most: How many rounds at most.
    """
    longer = np.flatnonzero(np.diff(rounds.local_steps) > 0)
    if not len(longer):
        return slice(0, most)
    begin = max(0, int(longer[0]) + 1 - 2 * most // 3)  # a long round is as wide as many short ones
    return slice(begin, begin + most)
