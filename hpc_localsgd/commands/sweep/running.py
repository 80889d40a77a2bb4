"""The runs of a sweep on this machine, so many at a time; each has a log of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from hpc_localsgd.commands.sweep.members import Member
from hpc_localsgd.commands.sweep.processes import Forked, Process, divide_cores, launched, tell
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.stopping import SIGNALS, is_unheard

LOGS = "logs"
LOOK_EVERY_S = 0.05
PATIENCE_S = 60.0  # from a request to stop until runs that did not are killed


@dataclass
class Running:
    """A run that is in progress."""

    member: Member
    process: Process
    began_s: float = field(default_factory=time.monotonic)


class Crew:
    """Does runs, at most so many at a time, until all have ended or it is asked to stop.

    Attributes:
        asked: Whether it was asked to stop.
    """

    def __init__(self, out: Path, jobs: int, launch: Sequence[str] = ()) -> None:
        """Prepare.

        Args:
            out: Folder of the sweep.
            jobs: How many runs at a time.
            launch: Words in front of the command of each run, as ``mpirun -np 2``.
        """
        self.asked = False
        # A launcher may start ranks in another folder than this one.
        self._out, self._jobs, self._launch = out.absolute(), jobs, tuple(launch)
        self._running: list[Running] = []
        self._kill_at_s = float("inf")
        if not launch:  # a launcher's ranks share by themselves
            divide_cores(os.environ, jobs)

    def run(
        self,
        members: Sequence[Member],
        ended: Callable[[Member, int, float], None],
        waiting: Callable[[Sequence[Member]], None] = lambda running: None,
    ) -> None:
        """Run all; a run that fails does not keep the others from theirs.

        Args:
            members: The runs, in the order they are begun.
            ended: Called when one has ended, with its exit status and its seconds.
            waiting: Called again and again meanwhile, with those that are in progress.

        Raises:
            ConfigurationError: The launcher cannot be started.
        """
        left = list(members)
        with self._listening():
            while self._running or (left and not self.asked):
                while left and len(self._running) < self._jobs and not self.asked:
                    self._begin(left.pop(0))
                self._take_out_the_ended(ended)
                waiting([running.member for running in self._running])
                if time.monotonic() >= self._kill_at_s:
                    self._tell_all(signal.SIGKILL, all_of_it=True)
                time.sleep(LOOK_EVERY_S)

    def _begin(self, member: Member) -> None:
        self._running.append(self._start(member))
        if self.asked:  # while it was started: the request did not find it
            tell(self._running[-1].process, signal.SIGUSR2)

    def _start(self, member: Member) -> Running:
        log = self._out / LOGS / f"{member.name}.txt"
        words = member.words(self._out)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            forks = not self._launch and "task.loaders" not in member.options  # which fork, too
            started = Forked(words, log) if forks else launched(self._launch, words, log)
            return Running(member, started)
        except OSError as error:
            raise ConfigurationError(f"{member.title} cannot be started: {error}") from error

    def _take_out_the_ended(self, ended: Callable[[Member, int, float], None]) -> None:
        for running in list(self._running):
            status = running.process.poll()
            if status is not None:
                self._running.remove(running)
                ended(running.member, status, time.monotonic() - running.began_s)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Hear requests to stop; leave no process behind, whatever happens."""
        heard = (number for number in SIGNALS if not is_unheard(number))
        before = {number: signal.signal(number, self._stop) for number in heard}
        try:
            yield
        finally:
            self._tell_all(signal.SIGKILL, all_of_it=True)
            for running in self._running:
                running.process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Let the runs keep their places and end; a second request kills them."""
        del frame
        now = time.monotonic()
        again = self.asked and number in (signal.SIGINT, signal.SIGTERM)
        self._kill_at_s = now if again else min(self._kill_at_s, now + PATIENCE_S)
        self.asked = True
        self._tell_all(signal.SIGUSR2)

    def _tell_all(self, number: int, all_of_it: bool = False) -> None:
        for running in self._running:
            tell(running.process, number, all_of_it)
