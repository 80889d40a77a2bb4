"""End this process when no thread of Python has run for too long.

A library in C that waits with the interpreter locked (MPI_Init for ranks that never come, a lock
that another thread of it holds) leaves no thread of ours to say so, and no signal handler. The
kernel's timers need none: glibc calls a function of C in a thread of its own. One says a sentence,
one calls `alarm`, and the SIGALRM that comes after that shows where the process is (`faulthandler`)
and ends it. The time between the two is for a process that was suspended, whose timers have all run
out when it continues: it puts the alarm off again, and at most the sentence was said.

Where there are no such timers `faulthandler` alone ends the process, with status 1.
"""

from __future__ import annotations

import ctypes
import faulthandler
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RUNS_WITHIN_S = 20  # a process that was suspended, and continues on a busy machine
STDERR = 2
_IN_A_THREAD = 2  # SIGEV_THREAD


class _Value(ctypes.Union):
    """`union sigval`: the argument that the function is given."""

    _fields_ = (("number", ctypes.c_int), ("text", ctypes.c_char_p))


class _Event(ctypes.Structure):
    """`struct sigevent` of Linux, 64 bytes."""

    _fields_ = (
        ("value", _Value),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("rest", ctypes.c_char * 32),
    )


class _Setting(ctypes.Structure):
    """`struct itimerspec`: the interval of the timer, and the time to its first expiry."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("again_s", "again_ns", "s", "ns"))


class Alarm:
    """A timer that ends the process unless Python, by running, postpones it again and again."""

    def __init__(self, said: str) -> None:
        """Prepare the alarm without starting it.

        Args:
            said: The sentence, on standard error.
        """
        self._text = said.replace("%", "%%").encode()  # a format for C, which reads it late
        self._timers: list[ctypes.c_void_p] = []
        try:
            self._c: Any = ctypes.CDLL(None, use_errno=True)
            say = self._made("warnx", _Value(text=self._text))
            self._timers = [say, self._made("alarm", _Value(number=RUNS_WITHIN_S))]
        except (OSError, AttributeError):  # not Linux
            pass

    def put_off(self, seconds: float) -> None:
        """Postpone the alarm to so many seconds from now."""
        if not self._timers:
            faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
            return
        faulthandler.register(signal.SIGALRM, file=STDERR, chain=True)
        self._set(seconds)

    def cancel(self) -> None:
        """Stop the alarm."""
        if self._timers:
            self._set(0.0)
            faulthandler.unregister(signal.SIGALRM)
        else:
            faulthandler.cancel_dump_traceback_later()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Run the body with the alarm set to so many seconds."""
        self.put_off(seconds)
        try:
            yield
        finally:
            self.cancel()

    def _made(self, function: str, value: _Value) -> ctypes.c_void_p:
        """Make a timer that calls a function of C.

        Raises:
            OSError: The kernel has no timers for it.
            AttributeError: There is no such function.
        """
        address = ctypes.cast(getattr(self._c, function), ctypes.c_void_p)
        event = _Event(value=value, notify=_IN_A_THREAD, function=address.value)
        timer = ctypes.c_void_p()
        made = self._c.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer))
        if made != 0:
            raise OSError(ctypes.get_errno(), "timer_create")
        return timer

    def _set(self, seconds: float) -> None:
        """Set the timer to so many seconds; 0 stops it."""
        setting = _Setting(s=int(seconds), ns=int(seconds % 1 * 1e9))
        for timer in self._timers:
            self._c.timer_settime(timer, 0, ctypes.byref(setting), None)
        signal.alarm(0)  # they may have run out before
