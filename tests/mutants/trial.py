"""One fault, one process: what the tests say of it, within a time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum

from mutants.faults import Fault
from mutants.watch import ENDLESS

LEAST_S = 60.0  # before a fault counts as one that makes a loop endless
REMEMBERED = 40  # tests that noticed something

# (fault, tests to begin with, descriptor to tell on): in the child, which it leaves or ends.
Inside = Callable[[Fault, Sequence[str], int], None]


class Outcome(Enum):
    """What the tests said."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"
    TIMED_OUT = "timed out"


class Trial:
    """Tests with a fault, in a child process that begins now.

    Attributes:
        timeout_s: Three times what the tests take without a fault, on this machine and now.
        noticed: The test that failed; nothing where none did, or none came to its end.
    """

    timeout_s = LEAST_S

    def __init__(self, fault: Fault, inside: Inside, first: Sequence[str] = ()) -> None:
        self.fault, self._end, self.noticed = fault, time.monotonic() + self.timeout_s, ""
        self._told, writer = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.setsid()
            os.close(self._told)
            inside(fault, first, writer)
        os.close(writer)

    def outcome(self) -> Outcome | None:
        """Its outcome; None while it runs. Not to be asked again after that."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid:
            if time.monotonic() < self._end:
                return None
            self._leave_nothing()
            os.waitpid(self._child, 0)
            os.close(self._told)
            return Outcome.TIMED_OUT
        self._leave_nothing()
        with os.fdopen(self._told) as told:
            self.noticed = told.readline().strip()
        if self.noticed == ENDLESS:
            self.noticed = ""
            return Outcome.TIMED_OUT
        return Outcome.SURVIVED if os.waitstatus_to_exitcode(status) == 0 else Outcome.KILLED

    def _leave_nothing(self) -> None:
        """End what the tests started and the child, which ends without ceremony, did not."""
        with suppress(ProcessLookupError):
            os.killpg(self._child, signal.SIGKILL)


def tried(
    faults: Sequence[Fault], inside: Inside, jobs: int = 1
) -> Iterator[tuple[Fault, Outcome]]:
    """Every fault with its outcome, as they end, `jobs` at a time.

    Tests that noticed a fault are tried first on those after it.
    """
    waiting, running, noticed = list(reversed(faults)), list[Trial](), dict[str, None]()
    while waiting or running:
        while waiting and len(running) < jobs:
            latest = [*reversed(noticed)][:REMEMBERED]
            running.append(Trial(waiting.pop(), inside, latest))
        time.sleep(0.02)
        for trial in list(running):
            outcome = trial.outcome()
            if outcome is not None:
                running.remove(trial)
                if trial.noticed:
                    noticed.pop(trial.noticed, None)
                    noticed[trial.noticed] = None
                yield trial.fault, outcome
