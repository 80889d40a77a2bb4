"""A request to stop: a signal (SIGUSR2, Ctrl-C, ...) or a file `STOP` in the folder of the run.

A Python signal handler runs in the main thread only, and not while that sits in an exchange or in
a long computation. So the signal's number is written to a pipe at once, by the interpreter's own
handler in C, and a thread of ours reads it: it asks the loop to stop at the next place between two
steps, and where the loop does not come to one in time, it does itself what is to be done.

The first rank that is asked makes `STOP`, at which all ranks look once a second: a signal to one
rank stops all, and where a launcher hands on no signal (horovodrun) `touch <out>/STOP` does.
A `STOP` that was there when the run began does not count. A second Ctrl-C ends at once. Where the
folder itself is gone, no rank can be asked by a file: every rank finds that out and stops.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from hpc_localsgd.worlds.process_end import end_process

STOPPED = 85  # exit status: stopped on request, resume me
HUNG = 86  # exit status: a rank made no step for too long, resume me
GONE = 87  # exit status: the folder of the run, or its record, is gone; a user must look
REGROUPED = 88  # exit status: an agent of torchrun comes or goes, and they start the run again
INTERRUPTED = 130  # exit status of a second Ctrl-C, as shells have it
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AGAIN_S = 1.0  # a launcher may hand on the Ctrl-C that its ranks have got already
LOOK_EVERY_S = 1.0
PATIENCE_S = 1.5  # for the loop to come to the end of its step
PATIENCE_OF_TERM_S = 0.3  # a launcher that sends SIGTERM may send SIGKILL a second later
CTRL_C = "Ctrl-C"
before_end: set[Callable[[], None]] = set()  # what `end` does, where no `finally` is reached


class Stopped(Exception):
    """End of a run that was asked to stop, and has saved what it needs to resume."""


class StopListener:
    """Listener for requests to stop: a context manager that restores the signals when it ends.

    Attributes:
        asked: Who asked ("SIGUSR2", "Ctrl-C", "STOP"), or why; empty before that.
        status: The exit status then.
        first: Whether this rank asked before all others, and therefore says why.
        asked_s: When, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.asked, self.asked_s, self.status = "", 0.0, STOPPED
        self.first = False
        self._file: Path | None = None
        self._ignored = 0
        self._before: dict[int, Any] = {}
        self._closed = self._left = False
        self._missing = 0  # looks in a row that found no folder
        self._out_of_patience = self._leave_at_once
        self._each_second: Callable[[], None] = lambda: None
        self._when_over: Callable[[], None] = lambda: None

    @property
    def hurried(self) -> bool:
        """Whether the process may be killed in a moment."""
        return self.asked == "SIGTERM"

    @property
    def since_ns(self) -> int:
        """Time of the request, by the clock of the run's file system; 0 if unknown."""
        return changed_ns(self._file) if self._file else 0

    def look_at(self, out: Path) -> None:
        """Look, from now on, for `<out>/STOP` too."""
        file = out / "STOP"
        self._ignored = changed_ns(file)
        self._file = file

    def attend(
        self,
        each_second: Callable[[], None],
        out_of_patience: Callable[[], None] | None = None,
        when_over: Callable[[], None] = lambda: None,
    ) -> None:
        """Set what the thread does from now on.

        Args:
            each_second: Called about once a second.
            out_of_patience: Called when the loop was asked and did not stop in time. As long as
                this is not given there is nothing to keep, and the process ends.
            when_over: Called when this context manager ends.
        """
        self._when_over = when_over
        self._each_second = each_second
        self._out_of_patience = out_of_patience or self._leave_at_once

    def __enter__(self) -> StopListener:
        if threading.current_thread() is not threading.main_thread():
            return self  # signals belong to the main thread
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        for number in SIGNALS:
            if is_unheard(number):
                continue
            self._before[number] = signal.signal(number, _nothing)
            signal.siginterrupt(number, False)
        self._fd_before = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="stopping", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        if self._before:
            signal.set_wakeup_fd(self._fd_before)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._writes)  # which wakes the thread, and it ends
            self._thread.join(LOOK_EVERY_S)
        self._when_over()

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._closed:
            ready, _, _ = select.select([self._reads], [], [], self._next_look_s())
            if ready:
                self._hear(os.read(self._reads, 64))
            if time.monotonic() - looked >= LOOK_EVERY_S:
                looked = time.monotonic()
                self._look()
            if self._is_overdue():
                self._left = True  # in a thread of its own: this one hears a second Ctrl-C
                threading.Thread(target=self._out_of_patience, name="leaving", daemon=True).start()
        os.close(self._reads)

    def _is_overdue(self) -> bool:
        """Return whether the loop was asked and did not stop in time."""
        waits = self.asked and not (self._closed or self._left)
        return bool(waits) and self._waited_s() >= self._patience_s()

    def _hear(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGINT:
                if self.asked == CTRL_C and self._waited_s() >= AGAIN_S:
                    end(INTERRUPTED)
                self.ask(CTRL_C)
            elif number in SIGNALS:
                self.ask(signal.Signals(number).name, asked_by(number))

    def _look(self) -> None:
        self._each_second()
        if self._file is None:
            return
        self._missing = self._missing + 1 if is_gone(self._file.parent) else 0
        if self._missing > 1:  # once may be a mount that is just coming
            self.ask(f"{self._file.parent} is gone", GONE)
        if changed_ns(self._file) not in (0, self._ignored):
            said = _said(self._file)
            self.ask("STOP", int(said) if said.isdecimal() else STOPPED)

    def ask(self, who: str, status: int = STOPPED) -> None:
        """Ask this rank to stop, and the others by the file. A second call changes nothing."""
        if self.asked:
            return
        self.status, self.asked_s = status, time.monotonic()
        self.asked = who
        self.first = who != "STOP" and self._tell_all()

    def _tell_all(self) -> bool:
        """Make the file; return whether no other rank had made it."""
        if self._file is None:
            return True
        own = self._file.with_name(f".STOP-{socket.gethostname()}-{os.getpid()}")
        with suppress(OSError):  # a full disk: the others have their own signals
            own.write_text(str(self.status))
            try:
                os.link(own, self._file)  # with the status in it, and by one rank only
            except FileExistsError:
                if changed_ns(self._file) != self._ignored:
                    return False
                self._file.write_text(str(self.status))
            except OSError:  # no hard links here
                self._file.write_text(str(self.status))
            finally:
                own.unlink()
        return True

    def _leave_at_once(self) -> None:
        """Leave at once: nothing has begun, so there is nothing to save.

        A launcher ends the other ranks by SIGTERM when one has failed; their status must not hide
        that one's from the job script. A torchrun that restarts does not look at theirs then.
        """
        end(1 if self.hurried and not starts_again() else STOPPED)

    def _waited_s(self) -> float:
        return time.monotonic() - self.asked_s

    def _patience_s(self) -> float:
        return PATIENCE_OF_TERM_S if self.hurried else PATIENCE_S

    def _next_look_s(self) -> float:
        waits = self.asked and not self._left
        return min(LOOK_EVERY_S, self._patience_s()) if waits else LOOK_EVERY_S


def resume_line(out: Path) -> str:
    """Return the command that resumes a run."""
    return f"python -m hpc_localsgd.train --config {out / 'config.yaml'} --out {out} --resume"


def end(status: int) -> NoReturn:
    """End this process at once, without waiting for ranks that may be gone."""
    try:
        for each in list(before_end):
            each()
    finally:
        end_process(to_launcher(status))


def starts_again(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the launcher restarts a job at once that ends with a status other than 0.

    That is `torchrun --max-restarts N` with N > 0, also when all N are used up.
    """
    return environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"


def asked_by(number: int, environ: Mapping[str, str] = os.environ) -> int:
    """Return the status of a run that a signal asks to stop.

    An agent of torchrun sends SIGTERM to its ranks when it has seen another one join, or leaves
    itself (then SIGHUP too). It does not look at what they end with; but the other agents look at
    theirs, which have seen `STOP`, and take 0 for the end of the run.

    >>> asked_by(signal.SIGTERM, {"TORCHELASTIC_MAX_RESTARTS": "3", "GROUP_WORLD_SIZE": "2"})
    88
    """
    of_an_agent = number in (signal.SIGTERM, signal.SIGHUP) and starts_again(environ)
    return REGROUPED if of_an_agent and environ.get("GROUP_WORLD_SIZE", "1") != "1" else STOPPED


def to_launcher(status: int, environ: Mapping[str, str] = os.environ) -> int:
    """Return the exit status for a launcher: 0 for a stopped run that it would restart at once.

    The record says `stopped` all the same.

    >>> to_launcher(STOPPED, {"TORCHELASTIC_MAX_RESTARTS": "3"}), to_launcher(STOPPED, {})
    (0, 85)
    """
    return 0 if status == STOPPED and starts_again(environ) else status


def is_unheard(number: int) -> bool:
    """Return whether a signal is not for this process: `nohup` keeps the end of a login from it."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _nothing(number: int, frame: FrameType | None) -> None:
    """Do nothing: without a handler the signal would end the process; the pipe does the work."""


def changed_ns(file: Path) -> int:
    """Return when a file was last written; 0 if it does not exist."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def is_gone(folder: Path) -> bool:
    """Return whether a folder was removed, moved or unmounted; a slow file system is not gone."""
    try:
        folder.stat()
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENOTCONN)
    return False


def _said(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
