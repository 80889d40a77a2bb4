"""Who waits for whom: every rank's seconds, and the ranks the others waited for."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from hpc_localsgd.trajectory import Trajectory

# How worlds of several ranks describe themselves: 2 x 4 workers, 8 on 3 ranks.
_PLACE, _UNEVEN = re.compile(r"\((\d+) x (\d+) workers"), re.compile(r"\((\d+) on (\d+) ranks")

WORTH_NAMING = 0.02  # of the time: less waiting than this is not a rank's fault


@dataclass(frozen=True)
class Waiting:
    """Seconds of every rank, n of them.

    Attributes:
        names: ``[n]`` ``rank 1 (workers 2-3)``, ``rank 1``, or ``worker 1`` where ranks are not
            known.
        compute_s: ``[S, n]`` seconds of local steps.
        wait_s: ``[S, n]`` seconds waiting for slower ranks.
        transfer_s: ``[S, n]`` seconds moving numbers.
    """

    names: tuple[str, ...]
    compute_s: np.ndarray
    wait_s: np.ndarray
    transfer_s: np.ndarray

    @property
    def last(self) -> np.ndarray:
        """Rank that arrived last, and so waited least, ``[S]``; -1 where no rank waited."""
        known = np.isfinite(self.wait_s)
        waited = np.where(known, self.wait_s, np.inf)
        if waited.shape[1] == 0:
            return np.full(len(waited), -1)
        someone = np.where(known, self.wait_s, 0).max(axis=1, initial=0) > 0
        return np.where(someone, waited.argmin(axis=1), -1)

    @property
    def caused_s(self) -> np.ndarray:
        """Seconds the mean rank waited in the rounds in which this rank was the last, ``[n]``."""
        mean = np.nan_to_num(self.wait_s).mean(axis=1) if self.wait_s.size else np.zeros(0)
        return np.array([mean[self.last == i].sum() for i in range(len(self.names))])

    @property
    def share(self) -> float:
        """Waiting as a share of the mean rank's time; 0 where no seconds are known."""
        waited = float(np.nansum(self.wait_s))
        total = waited + float(np.nansum(self.compute_s) + np.nansum(self.transfer_s))
        return waited / total if total > 0 else 0.0

    def stragglers(self) -> list[int]:
        """Return the ranks that others waited for out of proportion, worst first.

        Twice the share of waiting that each would cause if all were alike. None where waiting is
        less than 2 % of the time: then it is noise.
        """
        caused, n = self.caused_s, len(self.names)
        if n < 2 or self.share < WORTH_NAMING or not caused.sum() > 0:
            return []
        share = caused / caused.sum()
        # Of two, twice one's share would be everything: three quarters will do.
        much = min(2 / n, 0.75)
        return [int(i) for i in np.argsort(-share, kind="stable") if share[i] > much]

    def sentence(self) -> str:
        """Say in a sentence who waited and for whom."""
        if len(self.names) < 2:
            return "A single rank does not wait."
        if self.share < WORTH_NAMING:
            return f"No straggler: waiting is {100 * self.share:.2g} % of the time."
        begin = f"Waiting is {100 * self.share:.2g} % of the time."
        named = self.stragglers()
        if not named:
            return f"{begin} It is caused by all ranks in turn."
        caused = self.caused_s
        said = [
            f"{self.names[i]} was the last in {100 * (self.last == i).mean():.0f} % of the rounds "
            f"and caused {100 * caused[i] / caused.sum():.0f} % of the waiting"
            for i in named
        ]
        listed = "; ".join(said)
        return f"{begin} {listed[0].upper()}{listed[1:]}."


def waiting(run: Trajectory) -> Waiting:
    """Return who waited for whom in a run.

    Args:
        run: The run.
    """
    rounds, K = run.rounds, run.rounds.compute_s.shape[1]
    placed = _placed(str(run.attrs.get("world", "")), K)
    known = bool(placed)
    R = np.array(placed or [1] * K, dtype=int)
    first = np.cumsum(R) - R
    names = tuple(_name(i, a, n, known) for i, (a, n) in enumerate(zip(first, R, strict=True)))
    # Workers of one rank take their steps and their exchanges together.
    columns = (rounds[c] for c in ("compute_s", "wait_s", "transfer_s"))
    compute, wait, transfer = (np.add.reduceat(x, first, axis=1) / R if K else x for x in columns)
    return Waiting(names, compute, wait, transfer)


def _placed(world: str, K: int) -> list[int]:
    """Return the workers of each rank, the first ones one more where they are unequal.

    None where they are not K in all: a segment of the run may have had another number.
    """
    even, uneven = _PLACE.search(world), _UNEVEN.search(world)
    if even and int(even[1]) * int(even[2]) == K:
        return [int(even[2])] * int(even[1])
    if uneven and int(uneven[1]) == K >= int(uneven[2]) > 0:
        few, more = divmod(K, int(uneven[2]))
        return [few + (i < more) for i in range(int(uneven[2]))]
    return []


def _name(i: int, first: int, workers: int, rank: bool) -> str:
    if not rank:
        return f"worker {i}"
    return f"rank {i}" if workers == 1 else f"rank {i} (workers {first}-{first + workers - 1})"
