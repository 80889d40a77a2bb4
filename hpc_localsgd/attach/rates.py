"""What a schedule that follows the learning rate does in a loop that never told it of a warm-up."""

from __future__ import annotations

import warnings

from hpc_localsgd.attach.checks import asks_for_warmup, without_warmup
from hpc_localsgd.attach.rounds import Lengths, Place
from hpc_localsgd.plan.schedule import every, phases, post_local
from hpc_localsgd.types import ConfigurationError

LONG_ROUND = 1000  # steps; one that was written down (every, post_local, phases) is never long


class Rates:
    """The learning rate seen at the beginning of steps, while it may still be warming up.

    Attributes:
        watching: Whether `see` has anything to find: the schedule is `qsr` without a word on
            warm-up, and the rate has not fallen yet.
    """

    def __init__(self, schedule: Lengths) -> None:
        self.watching = without_warmup(schedule)
        self._written_down = isinstance(schedule, every | post_local | phases)
        self._before: float | None = None
        self._longest = LONG_ROUND

    def see(self, t: int, rate: float) -> None:
        """Look at the rate of step t.

        Raises:
            ConfigurationError: It is 0 at the first step seen, or higher than before. On all ranks
                alike, since their rates are the same.
        """
        if not self.watching:
            return
        before, self._before = self._before, rate
        if (before is None and rate <= 0) or (before is not None and rate > before):
            raise ConfigurationError(asks_for_warmup(t, rate, before))
        self.watching = before is None or rate == before

    def resumed(self) -> None:
        """Stop looking: the run goes on from its middle, where a rise is no warm-up."""
        self.watching = False

    def say(self, place: Place, rank: int) -> None:
        """Say on rank 0 of the round that begins that it is long, and again when it doubles."""
        if self._written_down or place.H < self._longest:
            return
        self._longest = 2 * place.H
        if rank == 0:
            warnings.warn(
                f"round {place.s} has H = {place.H} steps at the learning rate {place.rate:.6g}: "
                f"the next exchange is after step {place.end - 1}; finish() ends it earlier",
                stacklevel=2,
            )
