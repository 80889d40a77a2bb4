"""The roll call of one rank: the operations it is told of, its begin and its end."""

from __future__ import annotations

import atexit
import json
import os
import sys
import warnings
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.rollcall.connection import Connection
from hpc_localsgd.run.rollcall.hub import ADDRESS_BYTES, Hub
from hpc_localsgd.run.rollcall.own_operations import OwnOperations
from hpc_localsgd.run.rollcall.protocol import ENDED, LEFT, OUT_OF_STEP, At, Verdict, failed
from hpc_localsgd.run.rollcall.watch import Watch
from hpc_localsgd.worlds.gather_texts import gather_texts

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

EXPLAIN_S = 5.0  # from an error of a library to the reason for it
PATIENCE_S = 3600.0
LINGERS_S = 10.0  # at the end of a process that takes its library from ranks that wait in it

_calls: weakref.WeakKeyDictionary[object, RollCall] = weakref.WeakKeyDictionary()


def of_world(world: World, patience_s: float = PATIENCE_S) -> RollCall:
    """Return the roll call of the ranks of this world; a collective the first time.

    Worlds of the same ranks share one, so that it is noticed when two ranks wait in different ones.

    Args:
        world: Who meets.
        patience_s: For how long a rank may wait for others that are busy with something else, from
            now on.
    """
    found = _calls.get(world.rank_group)
    if found is not None:
        found.join(world, patience_s)
        return found
    found = _calls[world.rank_group] = RollCall(world, patience_s)
    weakref.finalize(world.rank_group, found.leave).atexit = False
    try:
        found.start(world)
    except BaseException:
        found.leave()
        del _calls[world.rank_group]
        raise
    return found


def leave(world: World, how: str = LEFT) -> None:
    """Announce that this rank joins no more operations, as the end of its process does."""
    found = _calls.get(world.rank_group)
    if found is not None:
        found.leave(how)


class _Operation:
    """Context of an operation in which ranks meet."""

    __slots__ = ("_at", "_call")

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
    """Record of the operation this rank is in, and search for why others do not join it.

    A rank that waits for what will never come is ended, with a sentence on standard error, since
    no exception reaches a thread that waits in C. A rank that is not waiting, or whose library has
    given up by itself, gets an exception.
    """

    def __init__(self, world: World, patience_s: float) -> None:
        """Begin to watch this rank; alone, there is nothing to watch."""
        self.rank, self.n = world.rank, world.n
        self._own, self._made, self._unfinished = OwnOperations(), 0, set[int]()
        self.ends_for_all = bool(getattr(world, "ends_for_all", False))
        self._worlds = worlds = weakref.WeakSet([world])

        def end(status: int) -> None:
            for living in list(worlds):
                living.end(status)

        self._watch = Watch(self.rank, self._own, patience_s, end) if self.n > 1 else None

    def start(self, world: World) -> None:
        """Connect the ranks, a collective. Until then only the patience ends a wait."""
        watch = self._watch
        if watch is None:
            return
        if self.ends_for_all:  # so as to run before Horovod's own, which ends it for all
            atexit.unregister(_leave_all)
            atexit.register(_leave_all)
        if self.rank == 0:  # before the thread, which is to answer at once: others wait for that
            watch.wire = _hub(self.n)
        watch.start()
        with self.at(0, "attach()", 0):
            address = _told(world, watch.wire.address if isinstance(watch.wire, Hub) else {})
            if self.rank:
                watch.wire = _line(address, self.rank)
                watch.say()
            rows = world.gather(np.array([[float(watch.wire is None)]]))
        if rows.any():
            watch.wire = None  # all continue alike; the thread ends the connections
            if self.rank == 0:
                _say_without(int(np.argmax(rows[:, 0])), address, watch.patience_s)

    def join(self, world: World, patience_s: float) -> None:
        """Add a world of the same ranks; its patience holds from now on, for all."""
        self._worlds.add(world)
        if self._watch is not None:
            self._watch.patience_s = patience_s

    def number(self) -> int:
        """Return the number of a run that begins; the same on all ranks."""
        self._made += 1
        self._unfinished.add(self._made - 1)
        return self._made - 1

    def at(self, run: int, what: str, t: int) -> AbstractContextManager[None]:
        """Return the context of an operation in which all ranks meet.

        Args:
            run: The number of the run.
            what: In words.
            t: Steps taken before it.

        Raises:
            ConfigurationError: On entry, when it is known that ranks cannot meet any more; when a
                library's own error ends it, and that is why.
            RuntimeError: The same, when a rank has failed.
        """
        return nullcontext() if self._watch is None else _Operation(self, At(run, what, t))

    def begin(self, at: At) -> None:
        """Enter an operation; one within another is part of it.

        Raises:
            ConfigurationError: It is known that ranks cannot meet any more.
            RuntimeError: A rank has failed.
        """
        watch, own = self._watch, self._own
        if watch is not None and watch.verdict is not None and not own.nested:
            raise _error(watch.verdict)
        own.begin(at)

    def end(self, error: BaseException | None = None) -> None:
        """Leave the operation; `error` is what it ended with."""
        try:
            if isinstance(error, RuntimeError) and self._own.waits:
                self._explain(error)
        finally:
            self._own.end()

    def settle(self) -> None:
        """Note that the ranks have met in the current operation, and know of any error."""
        self._own.settle()

    def ended(self, run: int, how: str = ENDED) -> None:
        """Announce that a run is over on this rank, which joins no more of its operations."""
        self._unfinished.discard(run)
        if self._own.over(run, how) and self._watch is not None:
            self._watch.say()

    def leave(self, how: str = LEFT, within_s: float = 0.0) -> None:
        """Announce that the process ends, and send nothing more.

        Args:
            how: Why it ends.
            within_s: How long to stay, so that ranks which wait for this one are told why first.
        """
        if self._own.leave(how) and self._watch is not None:
            self._watch.say()
            if self._unfinished:
                self._watch.linger(self.n, within_s)
            self._watch.close()

    def abandon(self) -> None:
        """Be silent in a fork of the process."""
        if self._watch is not None:
            self._watch.abandon()

    def _explain(self, error: RuntimeError) -> None:
        """Raise the cause of a library's error: a missing rank, if that is it."""
        watch = self._watch
        if watch is None or watch.wire is None:
            return
        watch.explaining = True
        try:
            watch.say()
            if watch.said.wait(EXPLAIN_S) and watch.verdict is not None:
                raise _error(watch.verdict) from error
        finally:
            watch.explaining = False


def _hub(n: int) -> Hub | None:
    try:
        return Hub(n)
    except OSError:
        return None


def _line(address: Mapping[str, object], rank: int) -> Connection | None:
    try:
        return Connection(address, rank)
    except OSError:
        return None


def _told(world: World, address: dict[str, object]) -> dict[str, object]:
    """Return rank 0's answer on every rank. A collective."""
    said = json.dumps(address)
    if len(said) > ADDRESS_BYTES:
        said = "{}"
    told: dict[str, object] = json.loads(gather_texts(world, said, ADDRESS_BYTES)[0])
    return told


def _say_without(rank: int, address: Mapping[str, object], patience_s: float) -> None:
    where = f"(at {address['hosts']}, port {address['port']})" if address else "(it cannot listen)"
    warnings.warn(
        f"rank {rank} cannot reach rank 0 by TCP {where}: a rank that leaves, or that is out of "
        f"step, is noticed only after patience_s={patience_s:g}",
        stacklevel=2,
    )


def _error(verdict: Verdict) -> Exception:
    kind = ConfigurationError if verdict.status == OUT_OF_STEP else RuntimeError
    return kind(verdict.said)


def _leave_all() -> None:
    """Announce the end of the interpreter; by an exception, if one has just been shown."""
    error = getattr(sys, "last_value", None)
    how = failed(error) if error else LEFT
    for call in list(_calls.values()):
        call.leave(how, LINGERS_S if call.ends_for_all else 0.0)


def _abandon_all() -> None:
    """Be silent in a fork, of a loader say: it must not answer for the rank or stay connected."""
    for call in list(_calls.values()):
        call.abandon()


atexit.register(_leave_all)
os.register_at_fork(after_in_child=_abandon_all)
