"""Detection of a learning-rate warm-up that a schedule in a user's own loop was not told of."""

from __future__ import annotations

import warnings
from typing import Any

from hpc_localsgd.attach.checks import without_warmup
from hpc_localsgd.attach.rounds import AttachedPosition
from hpc_localsgd.schedules.local_steps import Schedule, every, phases, post_local, qsr

LONG_ROUND = 1000  # steps; one that was written down (every, post_local, phases) is never long
SAID_AFTER = 2  # steps of it; by then the rate of a warm-up has risen


class WarmUp:
    """The learning rate seen so far, while it may still be warming up.

    For `qsr` whose `warmup` is not given: a rate that is 0, or rises before it ever fell, warms up,
    and rounds have `at_least` steps. A round begun before the rise was seen is cut short. The
    warm-up is over when the rate falls, or stays for more than twice as long as it stayed before it
    last rose (one step, or an epoch where a scheduler steps once an epoch).

    Attributes:
        watching: Whether the rate may still be warming up.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.watching = without_warmup(schedule)
        self._at_least = schedule.at_least if isinstance(schedule, qsr) else 1
        self._written_down = isinstance(schedule, every | post_local | phases)
        self._long = LONG_ROUND
        self._seen: float | None = None
        self._since = 0  # the step at which the rate seen was seen first
        self._stay = 0  # for how many steps it stayed before it last rose; 0 before it ever did

    def in_warm_up(self, t: int, rate: float) -> int:
        """Return H of the round that starts at step t if all ranks' rate warms up, else 0."""
        self._see(t, rate)
        warms_up = self.watching and (rate <= 0 or self._stay)
        return self._at_least if warms_up else 0

    def cut(self, place: AttachedPosition, rate: float) -> None:
        """End a round earlier if the rate rises in it; called after each of its steps."""
        if self.watching and self._see(place.t, rate) and not place.due:
            place.end = min(place.end, max(place.t, place.begin + self._at_least))

    def say(self, place: AttachedPosition, rank: int) -> None:
        """Warn on rank 0 that the round that has begun is long, and again when it doubles."""
        if self._written_down or place.H < self._long or place.t - place.begin < SAID_AFTER:
            return
        self._long = 2 * place.H
        if rank == 0:
            warnings.warn(
                f"round {place.s} has H = {place.H} steps at the learning rate {place.rate:.6g}: "
                f"the next exchange is after step {place.end - 1}; finish() ends it earlier",
                stacklevel=2,
            )

    def saved(self) -> dict[str, Any]:
        """Return what `load` restores."""
        seen = -1.0 if self._seen is None else self._seen
        return {
            "watching": self.watching,
            "seen": seen,
            "since": self._since,
            "stay": self._stay,
        }

    def load(self, state: dict[str, Any] | None) -> None:
        """Restore what was saved; without it the run continues from its middle, warmed up."""
        if state is None:
            self.watching = False
            return
        self.watching, self._since, self._stay = state["watching"], state["since"], state["stay"]
        self._seen = None if state["seen"] < 0 else state["seen"]

    def _see(self, t: int, rate: float) -> bool:
        """Look at the rate of step t; return whether it rises, in a warm-up."""
        if not self.watching:
            return False
        if self._seen is None:
            self._seen, self._since = rate, t
            return False
        rises = rate > self._seen
        if rises:
            self._stay = max(self._stay, t - self._since, 1)
        elif rate < self._seen or (self._stay and t - self._since > 2 * self._stay):
            self.watching = False
        if rate != self._seen:
            self._seen, self._since = rate, t
        return rises
