"""The thread of a rank that exchanges messages with the others, and draws conclusions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

from hpc_localsgd.run.rollcall.judging import Heard, judge
from hpc_localsgd.run.rollcall.own_operations import OwnOperations
from hpc_localsgd.run.rollcall.protocol import Note, Verdict, read
from hpc_localsgd.run.stderr import say

TICK_S = 1.0
WAITS_S = 0.5  # in an operation, before others are told
BEAT_S = 10.0  # from one sign of life to the next
LONGEST_TICK_S = 5.0  # what is beyond, this process did not run


class Wire(Protocol):
    """An end of the connections, `Hub` or `Connection`."""

    gone: set[int]

    def hear(self, timeout_s: float) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that came."""

    def tell(self, line: bytes) -> None:
        """Send a line."""

    def close(self) -> None:
        """End the connections."""

    def abandon(self) -> None:
        """Close them in a fork of the process."""


class RunningClock:
    """Seconds in which this process ran: time in which it was suspended does not count."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.now_s, self._last_s = 0.0, time.monotonic()

    def tick(self) -> float:
        """Advance; call it more often than every `LONGEST_TICK_S`."""
        real_s = time.monotonic()
        self.now_s += min(real_s - self._last_s, LONGEST_TICK_S)
        self._last_s = real_s
        return self.now_s


class Watch:
    """The thread, and what it knows of the other ranks.

    Attributes:
        wire: The connections; None before there are some, and where ranks go without.
        patience_s: How long a rank may wait for others that are busy with something else.
        verdict: Why ranks cannot meet any more; None while they can.
        said: Set when there is a verdict.
        explaining: Whether this rank's own thread waits for the verdict, to raise it.
    """

    def __init__(
        self, rank: int, own: OwnOperations, patience_s: float, end: Callable[[int], object]
    ) -> None:
        """Prepare to watch; `start` begins.

        Args:
            rank: This one.
            own: What it does.
            patience_s: See above.
            end: Ends this process with a status.
        """
        self._rank, self._own, self.patience_s, self._end = rank, own, patience_s, end
        self.wire: Wire | None = None
        self.verdict: Verdict | None = None
        self.said, self._closed = threading.Event(), threading.Event()
        self.explaining = False
        self._clock, self._lock = RunningClock(), threading.RLock()
        self._heard: dict[int, tuple[Note, float]] = {}  # with when
        self._gone: dict[int, float] = {}  # since when
        self._seen, self._seen_s = own.moment, 0.0
        self._sent, self._sent_s, self._judged_s = Note(), 0.0, 0.0
        self._suspected: Verdict | None = None
        self._held: Wire | None = None  # by the thread, which alone ends it

    def start(self) -> None:
        """Begin to watch, in a thread."""
        threading.Thread(target=self._run, name="roll call", daemon=True).start()

    def say(self, note: Note | None = None) -> None:
        """Tell the others where this rank is; rank 0 only what its absence would hide."""
        with self._lock:
            note = note or self._note()
            self._sent, self._sent_s = note, self._clock.now_s
            if self.wire is not None and (self._rank or note.left or note.ended):
                self.wire.tell(note.to_json())

    def close(self) -> None:
        """End the thread, which ends the connections."""
        self._closed.set()

    def linger(self, n: int, within_s: float) -> None:
        """Wait, at the end of the process, until no other of n ranks can be waiting for this one.

        Not for long; after a verdict as long as those take that it ends.
        """
        end_s = time.monotonic() + within_s
        while self.verdict is None and time.monotonic() < end_s and self._may_wait(n):
            time.sleep(TICK_S / 20)
        if self.verdict is not None:
            time.sleep(min(within_s, 3 * TICK_S))

    def _may_wait(self, n: int) -> bool:
        """Return whether there are other ranks that have not left, as far as this one knows."""
        if self.wire is None or self._rank:
            return self.wire is not None and not self.wire.gone
        left = {rank for rank, (said, _) in list(self._heard.items()) if said.left}
        return len(left | self.wire.gone) < n - 1

    def abandon(self) -> None:
        """Be silent in a fork of the process, which has no such thread, and is not a rank."""
        wire, self.wire = self.wire, None
        self._lock = threading.RLock()  # the other may be held by a thread that is not here
        if wire is not None:
            wire.abandon()

    def turn(self) -> None:
        """Listen to the others for a tick, tell them what they may need, and conclude."""
        if self._held is not None and self._held is not self.wire:
            self._held.close()
        self._held = self.wire
        self._listen(self._held)
        self._look(self._held)

    def _run(self) -> None:
        while not self._closed.is_set() and self.verdict is None:
            self.turn()
        for wire in {self._held, self.wire}:  # connected since the last turn, where they differ
            if wire is not None:
                wire.close()

    def _listen(self, wire: Wire | None) -> None:
        """Read what came from the others within a tick."""
        if wire is None:
            self._closed.wait(TICK_S)
            return
        for rank, line in wire.hear(TICK_S):
            with suppress(ValueError):  # a rank of another version
                said = read(line)
                if isinstance(said, Note):
                    self._heard[rank] = (said, self._clock.now_s)
                elif rank == 0:
                    self._conclude(said)
                    return

    def _look(self, wire: Wire | None) -> None:
        """Tell the others what they may need, and check whether a wait is in vain."""
        with self._lock:
            now_s, note = self._clock.tick(), self._note()
        waits = note.inside and note.waited_s >= WAITS_S
        news = waits != self._sent.inside or (waits and note.count != self._sent.count)
        if news or now_s - self._sent_s >= BEAT_S:
            self.say(note)
        urgent = waits or self._suspected or any(said.inside for said, _ in self._heard.values())
        if now_s - self._judged_s >= (TICK_S if urgent else BEAT_S) * 0.9:
            self._judged_s = now_s
            self._judge(wire, note, now_s)

    def _judge(self, wire: Wire | None, note: Note, now_s: float) -> None:
        """Conclude what follows from the notes, if it still does a tick later.

        Ranks that meet all the same find out by themselves, and each can raise an exception.
        """
        gone = wire.gone if wire is not None else set()
        # Rank 0 at its end may wait in MPI_Finalize for all others, connected and unable to judge.
        left = 0 in self._heard and self._heard[0][0].left
        if self.verdict is not None or (self._rank and wire is not None and not (gone or left)):
            return  # rank 0 knows more
        self._gone = {rank: self._gone.get(rank, now_s) for rank in gone}
        heard = {rank: Heard(Note(), 0.0, now_s - at_s) for rank, at_s in self._gone.items()}
        for rank, (said, at_s) in self._heard.items() if wire is not None else ():
            gone_s = now_s - self._gone[rank] if rank in self._gone else None
            heard[rank] = Heard(said, now_s - at_s, gone_s)
        heard[self._rank] = Heard(note)
        past = (lambda _: None) if self._rank else self._own.before
        found = judge(heard, past, self.patience_s)
        before, self._suspected = self._suspected, found
        if found is not None and before is not None and found.ranks == before.ranks:
            self._conclude(found)

    def _conclude(self, verdict: Verdict) -> None:
        """Tell the others and the user; end this process if it waits."""
        self.verdict = verdict
        wire = self.wire
        if self._rank == 0 and wire is not None:
            wire.tell(verdict.to_json())
        self.said.set()
        if self.explaining:
            return
        waits = self._own.moment.inside
        alone = wire is None or bool(wire.gone)
        if self._rank == 0 or alone or (waits and self._rank in verdict.ranks):
            with suppress(OSError, ValueError, AttributeError):  # it is no longer read
                say(f"hpc_localsgd: rank {self._rank}: {verdict.said}")
        if waits:
            time.sleep(TICK_S if self._rank == 0 else 0)  # for the others to read
            self._end(verdict.status)

    def _note(self) -> Note:
        moment = self._own.moment
        if moment is not self._seen:
            self._seen, self._seen_s = moment, self._clock.now_s
        waited_s = self._clock.now_s - self._seen_s if moment.inside else 0.0
        own, gave_up = self._own, self.explaining
        return Note(moment.number, moment.at, moment.inside, waited_s, gave_up, own.ended, own.left)
