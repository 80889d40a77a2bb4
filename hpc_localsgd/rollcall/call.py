"""The roll call of one rank: what it is told of, and the thread that talks with the others."""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
import warnings
import weakref
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpc_localsgd.rollcall.lines import Hub, Line
from hpc_localsgd.rollcall.notes import (
    LEFT,
    NOWHERE,
    OUT_OF_STEP,
    SETTLED,
    At,
    Heard,
    Note,
    Verdict,
    failed,
    judge,
)
from hpc_localsgd.types import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

TICK_S = 1.0
BEAT_S = 10.0  # from one sign of life to the next
EXPLAIN_S = 4.0  # from an error of a library to the reason for it
REMEMBERED = 4096  # operations of the past
ADDRESS_BYTES = 600
PATIENCE_S = 3600.0

_calls: weakref.WeakKeyDictionary[object, RollCall] = weakref.WeakKeyDictionary()


def of_world(world: World, patience_s: float = PATIENCE_S) -> RollCall:
    """The roll call of the ranks of this world; a collective the first time.

    Worlds of the same ranks share one, so that it is noticed when two ranks wait in different ones.

    Args:
        world: Who meets.
        patience_s: For how long a rank may wait for others that are busy with something else.
    """
    found = _calls.get(world.company)
    if found is None:
        found = _calls[world.company] = RollCall(world, patience_s)
        weakref.finalize(world.company, found.close).atexit = False
        found.start(world)
    return found


def leave(world: World, how: str = LEFT) -> None:
    """Say that this rank will come to nothing any more, as the end of its process does."""
    found = _calls.get(world.company)
    if found is not None:
        found.leave(how)


class _Moment(NamedTuple):
    """Where the rank's own thread is; replaced as a whole, since two threads look at it."""

    number: int
    at: At
    since_s: float
    inside: bool


class _Operation:
    """Around an operation in which ranks meet."""

    def __init__(self, call: RollCall, at: At) -> None:
        self._call, self._at = call, at

    def __enter__(self) -> None:
        self._call.begin(self._at)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call.end(error)


class RollCall:
    """Knows in which operation this rank is, and finds out why others do not come to it.

    A rank that waits for what will never come is ended, with a sentence on standard error, since
    no exception reaches a thread that waits in C. A rank that is not waiting, or whose library has
    given up by itself, gets an exception.
    """

    def __init__(self, world: World, patience_s: float) -> None:
        self.rank, self.n = world.rank, world.n
        self._patience_s, self._world = patience_s, weakref.ref(world)
        self._moment = _Moment(0, NOWHERE, time.monotonic(), False)
        self._past: list[tuple[int, At]] = [(0, NOWHERE)] * REMEMBERED
        self._made, self._ended, self._left = 0, dict[int, str](), ""
        self._depth, self._explaining, self._pid = 0, False, os.getpid()
        self._hub: Hub | None = None
        self._line: Line | None = None
        self._heard: dict[int, tuple[Note, float]] = {}  # with when
        self._sent, self._sent_s, self._judged_s = Note(), 0.0, 0.0
        self._lost_s: float | None = None
        self._suspected: Verdict | None = None
        self._verdict: Verdict | None = None
        self._telling = threading.Lock()
        self._said = threading.Event()
        self._closed = threading.Event()

    def start(self, world: World) -> None:
        """Connect the ranks, a collective. Until then only the patience ends a wait."""
        if self.n == 1:
            return
        threading.Thread(target=self._watch, name="roll call", daemon=True).start()
        with self.at(0, "attach()", 0):
            if self.rank == 0:
                self._hub = Hub()
            said = json.dumps(self._hub.address if self._hub else {}).encode()
            row = np.frombuffer(said.ljust(ADDRESS_BYTES), dtype=np.uint8)
            address = json.loads(world.gather(row[None].copy())[0].tobytes())
            failed = self._connect(address)
            rows = world.gather(np.array([[float(failed)]]))
        if rows.any():
            self._do_without(int(np.argmax(rows[:, 0])), address)

    def number(self) -> int:
        """A number for a run that begins; the same on all ranks."""
        self._made += 1
        return self._made - 1

    def at(self, sync: int, what: str, t: int) -> AbstractContextManager[None]:
        """Around an operation in which all ranks meet; one within another is part of it.

        Args:
            sync: The number of the run.
            what: In words.
            t: Steps taken before it.

        Raises:
            ConfigurationError: On entry, when it is known that ranks cannot meet any more; when a
                library's own error ends it, and that is why.
            RuntimeError: The same, when a rank has failed.
        """
        return nullcontext() if self.n == 1 else _Operation(self, At(sync, what, t))

    def begin(self, at: At) -> None:
        """An operation begins."""
        self._depth += 1
        if self._depth > 1:
            return
        if self._verdict is not None:
            self._depth = 0
            raise _error(self._verdict)
        count = self._moment.number + 1
        self._past[count % REMEMBERED] = (count, at)
        self._moment = _Moment(count, at, time.monotonic(), True)

    def end(self, error: BaseException | None = None) -> None:
        """It has ended; `error` is what it ended with."""
        self._depth -= 1
        if self._depth:
            return
        if isinstance(error, RuntimeError):
            self._explain(error)
        self._moment = self._moment._replace(inside=False)

    def settle(self) -> None:
        """The ranks have met in the operation that goes on, and have found out what is wrong."""
        count = self._moment.number
        self._past[count % REMEMBERED] = (count, SETTLED)
        self._moment = self._moment._replace(at=SETTLED)

    def ended(self, sync: int, how: str = "has ended its run") -> None:
        """A run is over on this rank, which will meet nobody in it any more."""
        if self.n > 1 and sync not in self._ended:
            self._ended[sync] = how
            self._say()

    def leave(self, how: str = LEFT) -> None:
        """The process ends."""
        if self.n == 1 or self._left or os.getpid() != self._pid:
            return
        self._left = how
        self._say()
        self.close()

    def close(self) -> None:
        """End the thread, which ends the connections."""
        self._closed.set()

    # --- the thread ------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closed.is_set() and self._verdict is None:
            self._listen()
            self._look()
        for end in (self._hub, self._line):
            if end is not None:
                end.close()

    def _listen(self) -> None:
        """What came from the others within a tick."""
        if self._hub is not None:
            for rank, line in self._hub.hear(TICK_S):
                self._take(rank, line)
        elif self._line is not None and self._lost_s is None:
            lines = self._line.hear(TICK_S)
            if lines is None:
                self._lost_s = time.monotonic()
            for line in lines or ():
                self._obey(line)
        else:
            self._closed.wait(TICK_S)

    def _obey(self, line: bytes) -> None:
        """What rank 0 says: where it is, or that all is over."""
        if b'"said"' in line:
            self._conclude(Verdict.from_json(line))
        else:
            self._take(0, line)

    def _take(self, rank: int, line: bytes) -> None:
        with suppress(ValueError):  # a rank of another version
            self._heard[rank] = (Note.from_json(line), time.monotonic())

    def _look(self) -> None:
        """Say what the others may have to know, and see whether a wait is in vain."""
        now_s, note = time.monotonic(), self._note()
        waits = note.inside and note.waited_s >= TICK_S
        was = (self._sent.count, self._sent.inside)
        changed = waits != self._sent.inside or (waits and was != (note.count, True))
        if changed or now_s - self._sent_s >= BEAT_S:
            self._say(note)
        if now_s - self._judged_s >= TICK_S:
            self._judged_s = now_s
            self._judge(note, now_s)

    def _judge(self, note: Note, now_s: float) -> None:
        """What follows from what is known here; said when it still does a tick later.

        Ranks that meet all the same find out by themselves, and each can raise an exception.
        """
        if self._line is not None and self._lost_s is None:
            return  # rank 0 knows more
        gone = self._hub.gone if self._hub is not None else {}
        if self._lost_s is not None:
            self._heard.setdefault(0, (Note(), self._lost_s))
            gone = {0: self._lost_s}
        heard = {
            rank: Heard(said, now_s - at_s, now_s - gone[rank] if rank in gone else None)
            for rank, (said, at_s) in self._heard.items()
        }
        found = judge(heard | {self.rank: Heard(note)}, self._before, self._patience_s)
        before, self._suspected = self._suspected, found
        if found is not None and before is not None and found.ranks == before.ranks:
            self._conclude(found)

    def _before(self, count: int) -> At | None:
        known, at = self._past[count % REMEMBERED]
        return at if known == count and self.rank == 0 else None

    def _conclude(self, verdict: Verdict) -> None:
        """Tell the others and the user; end this process if it waits."""
        self._verdict = verdict
        if self._hub is not None:
            self._hub.tell(verdict.to_json())
        self._said.set()
        if self._explaining:
            return
        waits = self._moment.inside
        if self.rank == 0 or self._lost_s is not None or (waits and self.rank in verdict.ranks):
            sys.stderr.write(f"hpc_localsgd: rank {self.rank}: {verdict.said}\n")
            sys.stderr.flush()
        if waits:
            time.sleep(TICK_S if self.rank == 0 else 0)  # for the others to read
            world = self._world()
            if world is not None:
                world.end(verdict.status)

    # --- both ------------------------------------------------------------------------------------

    def _note(self) -> Note:
        count, at, since_s, inside = self._moment
        waited_s = time.monotonic() - since_s if inside else 0.0
        return Note(count, at, inside, waited_s, self._made, dict(self._ended), self._left)

    def _say(self, note: Note | None = None) -> None:
        note = note or self._note()
        self._sent, self._sent_s = note, time.monotonic()
        with self._telling:
            self._tell(note)

    def _tell(self, note: Note) -> None:
        if self._line is not None:
            self._line.tell(note.to_json())
        elif self._hub is not None and (note.left or note.ended):
            self._hub.tell(note.to_json())

    def _connect(self, address: dict[str, object]) -> bool:
        """Call rank 0; returns whether that failed."""
        if self.rank == 0:
            return False
        try:
            self._line = Line(address, self.rank)
        except OSError:
            return True
        self._say()
        return False

    def _do_without(self, rank: int, address: dict[str, object]) -> None:
        """A firewall between the ranks, say: all go on alike."""
        self._hub = self._line = None
        if self.rank == 0:
            warnings.warn(
                f"rank {rank} cannot reach rank 0 by TCP (at {address['hosts']}, port "
                f"{address['port']}): a rank that leaves, or that is out of step, is noticed only "
                f"after patience_s={self._patience_s:g}",
                stacklevel=2,
            )

    def _explain(self, error: RuntimeError) -> None:
        """A library gave up: because of a rank that is not there, or for a reason of its own?"""
        self._explaining = True
        try:
            self._say()
            if self._said.wait(EXPLAIN_S) and self._verdict is not None:
                self._moment = self._moment._replace(inside=False)
                raise _error(self._verdict) from error
        finally:
            self._explaining = False


def _error(verdict: Verdict) -> Exception:
    kind = ConfigurationError if verdict.status == OUT_OF_STEP else RuntimeError
    return kind(verdict.said)


def _leave_all() -> None:
    """The interpreter ends; by an exception, if one has just been shown."""
    error = getattr(sys, "last_value", None)
    how = failed(error) if error else LEFT
    for call in list(_calls.values()):
        call.leave(how)


atexit.register(_leave_all)
