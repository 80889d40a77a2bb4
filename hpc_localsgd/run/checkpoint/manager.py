"""When a run keeps a place, in memory or on the disk, and when it stops."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from hpc_localsgd.errors import Gone, NotKept
from hpc_localsgd.run.checkpoint.background import Background
from hpc_localsgd.run.checkpoint.last_writes import LastWrites
from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint
from hpc_localsgd.run.stderr import say
from hpc_localsgd.run.stopping import GONE, HUNG, StopListener, Stopped, end

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Position, Run
    from hpc_localsgd.run.checkpoint.folder import Checkpoints
    from hpc_localsgd.run.recorder import Recorder

COPY, SAVE = 1, 2  # what rank 0's clock may ask for
ASK_WITHIN = 1000  # steps, at most, until it is asked again
COPY_EVERY_S = 1.0  # or a hundred times what a copy takes
SHARE = 100
GIVEN_UP_AFTER_S = 5.0  # when an exchange has failed: of a dead rank the launcher knows as well


class CheckpointManager:
    """Manager of the places of one rank.

    About once a second, after a step in which ranks have talked anyway, rank 0's clock decides for
    all. Where they do not talk, every rank goes by its own.
    """

    def __init__(
        self,
        run: Run,
        checkpoints: Checkpoints,
        stopping: StopListener | None = None,
        steps: int = 0,
        seconds: float = 0.0,
        after: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep places of a run.

        Args:
            run: The run.
            checkpoints: Where shards go.
            stopping: Who says when to stop.
            steps: Cadence of checkpoints in steps, from the first round end after each multiple (in
                rounds longer than that at each multiple); 0: none.
            seconds: Their cadence in seconds; 0: none.
            after: Steps taken at the last exchange of the run, if it is resumed.
            clock: Seconds.
        """
        self._run, self._clock = run, clock
        self._stopping = stopping or StopListener()
        self._steps, self._seconds, self._after = steps, seconds, after
        self._background = Background(checkpoints)
        self.at_the_end: Callable[[], None] = lambda: None  # of the run on this rank, however
        self._last = LastWrites(self._stopping, self._background, clock, lambda: self.at_the_end())
        self._common: deque[RankCheckpoint] = deque(maxlen=2)
        self._own: RankCheckpoint | None = None
        self._ask_at = after + 1  # the first exchange after so many steps; on all ranks alike
        self._leaving = threading.Lock()
        self._flushed = True
        self._copied_s = self._shared_s = self._saved_s = clock()
        self._pace_s = COPY_EVERY_S
        self.begun, self.t, self.passed_s = False, 0, clock()

    def begin(self, p: Position, record: Recorder) -> None:
        """Note the position before the first step, after what is measured there."""
        self._record = record
        self._exchanges = self._run.world.ledger.exchanges
        self._common.append(self._copy(p))
        self._asked_s = self._began_s = self.passed_s = self._clock()
        self._asked_t = self._began_t = self.t = p.t
        self.begun = True

    def mean_step_s(self) -> float:
        """Return the seconds of a step so far, everything included; 0 before the first."""
        return (self.passed_s - self._began_s) / max(1, self.t - self._began_t)

    def due(self, p: Position) -> bool:
        """Return whether all ranks save at this end of a round by their cadence in steps."""
        crossed = self._steps > 0 and p.t // self._steps > p.begin // self._steps
        return crossed or p.t == self._run.steps

    def between_steps(self, p: Position) -> None:
        """Copy, save or stop, whichever is due.

        Raises:
            Stopped: The run was asked to stop, and this rank's place is on the disk.
            NotKept: The run is at its end or was asked to stop, and its place is not.
            Gone: The run is at its end, and its record is not there any more.
            Diverged: As `Recorder.drain`.
        """
        self.t, self.passed_s = p.t, self._clock()
        due = p.t == p.end and self.due(p)
        if due:  # before the ranks' exchanges are looked at, of which this is none
            with self._run.world.ledger.unbilled():
                self._record.drain()
        asked = self._after_exchange(p)
        if p.t < self._run.steps:
            self._stop_if_asked(p)
        self._keep(p, asked, due)
        if p.t == self._run.steps:
            self._finish()

    def _after_exchange(self, p: Position) -> int:
        """Return what all ranks are asked for, where they have exchanged something; else 0."""
        exchanges = self._run.world.ledger.exchanges
        if exchanges == self._exchanges:
            return 0
        asked = self._ask(p) if p.t >= self._ask_at else 0
        self._exchanges, self._after = self._run.world.ledger.exchanges, p.t  # asking is one too
        return asked

    def _stop_if_asked(self, p: Position) -> None:
        """Stop where it was asked for, or where there is no record to write to."""
        if self._record.gone:
            self._stopping.ask(self._record.gone, GONE)
        if self._stopping.asked:
            self._stop(p)

    def _keep(self, p: Position, asked: int, due: bool) -> None:
        """Save a place or copy it: with all ranks, or this one's in a long round."""
        if asked & SAVE or due:
            self._save(self._shared(p))
        elif asked & COPY:
            self._shared(p)
        elif self._due_inside(p):
            self._save(self._alone(p))
        elif self.passed_s - self._copied_s > 2 * self._pace_s:
            self._alone(p)

    def _finish(self) -> None:
        """Wait for the last place of a complete run, and say what is not on the disk."""
        self._background.finish()
        self._claim()  # from here on a request to stop comes too late
        if self._record.gone:
            raise Gone(
                f"the run is complete, and its parameters are in {self._last.kept_in}, but "
                f"{self._record.gone}"
            )
        if not (self._flushed and self._background.written):
            raise NotKept(f"the run is complete, but not all of it is on disk: {self.to_mend()}")

    def _ask(self, p: Position) -> int:
        """Return what rank 0's clock asks for, on all ranks, and when to ask it again."""
        world, now = self._run.world, self._clock()
        passed_s, steps = max(now - self._asked_s, 1e-9), p.t - self._asked_t
        self._asked_s, self._asked_t = now, p.t
        again = min(ASK_WITHIN, max(1, int(steps * self._pace_s / passed_s)))
        copy = COPY if now - self._shared_s >= self._pace_s else 0
        save = SAVE if self._seconds and now - self._saved_s >= self._seconds else 0
        found = world.gather(np.full((world.R, 2), (copy | save, again)))[0]
        self._ask_at = p.t + int(found[1])
        return int(found[0])

    def finish(self) -> None:
        """Wait for what is being written."""
        self._background.finish()

    def leave(self) -> None:
        """Write what there is and end this process, from a thread, while the loop is stuck."""
        if self._leaving.acquire(blocking=False):  # or the loop is at it
            self._leave()

    def give_up(self, why: str) -> NoReturn:
        """Do the same as `leave` from the loop, when an exchange has failed.

        Args:
            why: Said by the first rank that finds out, unless a stop was asked for before.
        """
        self._stopping.ask("a failed exchange", HUNG)
        self._claim()
        self._last.within_s = GIVEN_UP_AFTER_S
        if self._stopping.first:
            say(why)
        self._leave()

    def _leave(self) -> NoReturn:
        status = self._stopping.status
        if not self.begun:
            self.at_the_end()
            end(status)
        written = self._last.keep(self._record, self._copies())
        # Before the wait: a launcher that has lost a rank may kill this one in it.
        if self._stopping.first if status == HUNG else self._run.world.rank == 0:
            say(self._last.farewell(f"in the step after {self.t}"))
        kept = self._last.wait(written)
        end(status if kept or status == GONE else 1)

    def _stop(self, p: Position) -> None:
        self._claim()
        place = RankCheckpoint.of(self._run, p, self._after, self._record.state())
        if not self._keep_and_wait([place]):
            raise NotKept(f"stopped, but nothing could be kept: {self.to_mend()}")
        raise Stopped(self._last.farewell(f"after step {p.t}"))

    def to_mend(self) -> str:
        """Return what a user must do before the run can resume."""
        return self._last.to_mend()

    def _claim(self) -> None:
        """Make the loop, not the thread, responsible for ending this process."""
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()  # the thread was faster, and is about to end the process

    def _keep_and_wait(self, live: list[RankCheckpoint]) -> bool:
        """Write places, and wait for the other ranks'; return whether any is written."""
        return self._last.wait(self._last.keep(self._record, [*live, *self._copies()]))

    def _copies(self) -> list[RankCheckpoint]:
        return [*self._common, *([self._own] if self._own else [])]

    def _copy(self, p: Position) -> RankCheckpoint:
        began = self._clock()
        with self._run.world.ledger.unbilled():
            place = RankCheckpoint.of(self._run, p, self._after, self._record.state())
        self._copied_s = self._clock()
        self._pace_s = max(COPY_EVERY_S, SHARE * (self._copied_s - began))
        return place

    def _shared(self, p: Position) -> RankCheckpoint:
        """Return a copy that all ranks make at this moment."""
        place = self._copy(p)
        self._common.append(place)
        self._shared_s = self._copied_s
        return place

    def _alone(self, p: Position) -> RankCheckpoint:
        """Return a copy that this rank makes for itself."""
        self._own = self._copy(p)
        return self._own

    def _save(self, place: RankCheckpoint) -> None:
        """Write a copy to disk, and before it the record that the resumed run will extend."""
        self._saved_s = self._clock()
        with self._run.world.ledger.unbilled():
            self._flushed = self._record.flush()
            if self._flushed or self._record.gone:
                self._background.hand(place)

    def _due_inside(self, p: Position) -> bool:
        """Return whether to save within a round that is longer than the cadence."""
        if p.t == p.end:
            return False
        by_steps = 0 < self._steps < p.end - p.begin and p.t % self._steps == 0
        return by_steps or 0 < 1.1 * self._seconds <= self.passed_s - self._saved_s
