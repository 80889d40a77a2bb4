"""End a job that hangs: a rank died unnoticed by its launcher, or the network is gone.

A rank that waits in an exchange waits as long as the slowest other rank takes for its round. So the
bound is not a fixed one: a least time, and three times the longest round at the pace of this run.

Every rank says now and then how far it is, in `<out>/ranks/`. When the bound is over, a rank looks
who has said nothing new meanwhile, tells it, keeps what it has, and ends with status 86.

Before the first step the pace is unknown: a start may take three times the least time.

Where a library in C keeps Python's threads from running for as long, so that no thread can look, an
alarm that needs none ends the process, by SIGALRM; what was in memory is lost then.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_localsgd.cost.formatting import human_seconds
from hpc_localsgd.run.alarm import RUNS_WITHIN_S, Alarm
from hpc_localsgd.run.stderr import say
from hpc_localsgd.run.stopping import HUNG, StopListener, end, resume_line

if TYPE_CHECKING:
    from hpc_localsgd.run.checkpoint import CheckpointManager
    from hpc_localsgd.worlds.base import World

BEAT_EVERY_S = 5.0
ROUNDS = 3  # of the longest, for an exchange to come about
START = 3  # times the least time
FIRST_S = 2.5  # for rank 0, if it lives, to speak: it is where the launcher is
GRACE_S = 3.0  # for the thread to say it in words


class Starting:
    """Watchdog of a start, which ends a process that finds no other ranks or no data in time.

    No thread of Python runs while MPI_Init waits for the other ranks: it holds the interpreter's
    lock. So over that part, `with starting.joining()`, there is an alarm as well, which needs none.
    """

    def __init__(
        self, rank: int, least_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Watch the start of a rank.

        Args:
            rank: This one, as its launcher counts.
            least_s: As for `Watchdog`.
            clock: Seconds.
        """
        self._rank, self._least_s, self._clock = rank, least_s, clock
        self._began_s = clock()
        self.at = "waiting for the other ranks to start"

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Watch the body, which waits for the other ranks to start."""
        longest_s = START * self._least_s
        alarm = Alarm(f"{self._said(longest_s)} (if it was suspended, it continues)")
        with alarm.within(longest_s + GRACE_S) if self._least_s else nullcontext():
            yield
        self.at = "making its task, or waiting for the other ranks to have made theirs"

    def look(self) -> None:
        """End this process if the start takes too long."""
        passed_s = self._clock() - self._began_s
        if not 0 < START * self._least_s <= passed_s:
            return
        say(self._said(passed_s))
        end(HUNG)

    def _said(self, passed_s: float) -> str:
        return (
            f"rank {self._rank} on {socket.gethostname()} is still {self.at} after "
            f"{human_seconds(passed_s)}: the job hangs and is ended. If it only is slow, give "
            "--watchdog a longer time"
        )


class Watchdog:
    """Watchdog that checks, once a second, that this rank still takes steps."""

    def __init__(
        self,
        keeper: CheckpointManager,
        world: World,
        stopping: StopListener,
        out: Path,
        longest: int,
        least_s: float,
        advice: Callable[[], str] = str,
        alarm: Alarm | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch a rank.

        Args:
            keeper: Knows when the last step was.
            world: Who the ranks are.
            stopping: Is told of a hang, and tells the other ranks.
            out: Folder of the run.
            longest: Steps of the longest round of the plan.
            least_s: Without a step, until anything is done at all; 0 for never.
            advice: What more to say when the job is ended; may be nothing.
            alarm: Ends the process where no thread can look; see `stuck`.
            clock: Seconds.
        """
        self._keeper, self._world, self._stopping = keeper, world, stopping
        self._folder, self._longest, self._least_s = out / "ranks", longest, least_s
        self._clock, self._advice = clock, advice
        self._beaten_s = clock() - BEAT_EVERY_S
        self._beats = 0
        self._seen: dict[int, str] = {}
        self._looked_s = 0.0
        self._alarm = alarm

    def bound_s(self) -> float:
        """Return the seconds that this rank may take for a step, the first included."""
        if not self._keeper.begun:
            return START * self._least_s
        return self._least_s + ROUNDS * self._longest * self._keeper.mean_step_s()

    def look(self) -> None:
        """Say how far this rank is, and end the job if it hangs."""
        if not self._least_s or self._world.n == 1:
            return
        if self._alarm is not None:
            self._alarm.put_off(self.bound_s() + GRACE_S)
        if self._stopping.asked:
            return
        now = self._clock()
        if now - self._beaten_s >= BEAT_EVERY_S:
            self._beaten_s = now
            self._beat()
        silent_s = now - self._keeper.passed_s
        if silent_s < self.bound_s():
            self._seen = {}
        elif not self._seen:  # who says something new within the next beats is there
            self._seen, self._looked_s = self._said(), now
        elif now - self._looked_s > 2 * BEAT_EVERY_S + 1 + (FIRST_S if self._world.rank else 0):
            self._end(silent_s)

    def over(self) -> None:
        """Stop watching."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _beat(self) -> None:
        self._beats += 1
        try:
            self._folder.mkdir(exist_ok=True)
            said = f"step {self._keeper.t} on {socket.gethostname()}, {self._beats}"
            (self._folder / f"rank-{self._world.rank}").write_text(said)
        except OSError:  # a full disk does not mean a hang
            pass

    def _said(self) -> dict[int, str]:
        """Return the last message of every rank."""
        found = {}
        for r in range(self._world.n):
            try:
                found[r] = (self._folder / f"rank-{r}").read_text()
            except OSError:
                found[r] = ""
        return found

    def _end(self, silent_s: float) -> None:
        now = self._said()
        missing = [r for r in now if now[r] == self._seen[r]]
        there = [r for r in now if r not in missing]
        steps = {r: _step(now[r]) for r in there}
        behind = [r for r in there if steps[r] == min(steps.values())]
        what = "no longer report" if missing else "are the furthest behind"
        heard = {r: now[r].rpartition(",")[0] or "never heard of" for r in missing or behind}
        names = "; ".join(f"rank {r} ({heard[r]})" for r in list(heard)[:8])
        self._stopping.ask("a hang", HUNG)
        if self._stopping.first:
            say(
                f"rank {self._world.rank} has waited {human_seconds(silent_s)} for its step after "
                f"{self._keeper.t}, and {human_seconds(self.bound_s())} were allowed: the job "
                f"hangs and is ended. These {what}: {names}"
            )
            if advice := self._advice():
                say(advice)


def stuck(rank: int, out: Path) -> Alarm:
    """Make the alarm that ends a rank in which no Python thread runs any more."""
    said = (
        f"rank {rank} on {socket.gethostname()}: Python has not run for long. If a library in C "
        f"keeps it from running, this rank ends in {RUNS_WITHIN_S} s, and shows where it is; "
        f"resume with {resume_line(out)}. If it was suspended, it continues now"
    )
    return Alarm(said)


def _step(said: str) -> int:
    word = said.partition(" on ")[0].rpartition(" ")[2]
    return int(word) if word.isdecimal() else -1
