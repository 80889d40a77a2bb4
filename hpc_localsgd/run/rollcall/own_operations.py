"""What this rank does: written by its own thread at every exchange, read by the one that talks.

The only part of the roll call that a step pays for: a few microseconds, no lock, no clock.
"""

from __future__ import annotations

from typing import NamedTuple

from hpc_localsgd.run.rollcall.protocol import LEFT, NOWHERE, SETTLED, At

REMEMBERED = 4096  # operations of the past
KEPT = 16  # runs that are over


class Moment(NamedTuple):
    """An operation of this rank; replaced as a whole, since two threads look at it.

    Attributes:
        number: Of operations begun so far, this one included.
        at: Which it is.
        inside: Whether it continues.
    """

    number: int
    at: At
    inside: bool


class OwnOperations:
    """The operations of this rank.

    Attributes:
        moment: The last that was begun.
        ended: Runs that are over, and how; the last `KEPT`, since no rank waits in older ones
            without being at another operation than this rank.
        left: Why the process ends; empty while it does not.
    """

    def __init__(self) -> None:
        """Begin before the first operation."""
        self.moment = Moment(0, NOWHERE, False)
        self.ended: dict[int, str] = {}
        self.left = ""
        self._past = [self.moment] * REMEMBERED
        self._depth = 0

    @property
    def nested(self) -> bool:
        """Whether an operation is under way, which includes what begins now."""
        return self._depth > 0

    @property
    def waits(self) -> bool:
        """Whether the end of an operation is the end of a wait for others."""
        return self._depth == 1 and self.moment.at != SETTLED

    def begin(self, at: At) -> None:
        """Enter an operation; one within another is part of it."""
        self._depth += 1
        if self._depth == 1:
            count = self.moment.number + 1
            self._past[count % REMEMBERED] = self.moment = Moment(count, at, True)

    def end(self) -> None:
        """Leave the operation."""
        self._depth -= 1
        if self._depth == 0:
            self.moment = Moment(self.moment.number, self.moment.at, False)

    def settle(self) -> None:
        """Note that the ranks have met in the current operation, and know of any error."""
        count = self.moment.number
        self._past[count % REMEMBERED] = self.moment = Moment(count, SETTLED, True)

    def over(self, run: int, how: str) -> bool:
        """Note that a run is over; return whether that is new."""
        if run in self.ended:
            return False
        kept = [*self.ended.items(), (run, how)][-KEPT:]
        self.ended = dict(kept)  # a new one: the other thread may be reading the old
        return True

    def leave(self, how: str = LEFT) -> bool:
        """Note that the process ends; return whether that is new."""
        self.left, before = self.left or how, self.left
        return not before

    def before(self, count: int) -> At | None:
        """Return the operation of a number; None if it is to come, or long past."""
        moment = self._past[count % REMEMBERED]
        return moment.at if moment.number == count else None
