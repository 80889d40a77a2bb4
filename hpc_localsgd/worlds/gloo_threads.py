"""Gloo's threads at the end of a process.

A thread of Gloo lets go of the last tensor after the exchange has returned, for which it needs
Python. If Python has ended by then, the process aborts: "terminate called without an active
exception". Whoever ends a process group waits for its threads; many scripts and frameworks never
end theirs.
"""

from __future__ import annotations

import atexit
import time
from pathlib import Path

THREADS = Path("/proc/self/task")  # of this process, on Linux
NAME = "pt_gloo_runloop"
WITHIN_S = 2.0  # for threads that stay at work, in an exchange whose other ranks are late
LOOK_EVERY_S = 0.005


def wait_for_gloo() -> None:
    """Wait until the threads of Gloo have nothing left to do, two seconds at most.

    Each sleep hands Python to a thread that waits for it; one that has got it, and is not done
    with it, does not sleep when it is looked at. No exchange is ended, and no group.
    """
    threads = _threads()
    end = time.monotonic() + WITHIN_S
    quiet = 0
    while threads and quiet < 2 and time.monotonic() < end:
        time.sleep(LOOK_EVERY_S)
        quiet = 0 if any(map(_works, threads)) else quiet + 1


def _threads() -> list[Path]:
    """Return Gloo's threads of this process; none on systems without a list of threads."""
    if not THREADS.exists():
        return []
    return [thread for thread in THREADS.iterdir() if NAME in _read(thread / "comm")]


def _works(thread: Path) -> bool:
    """Return whether a thread runs or waits for a processor: its state follows its name."""
    _, _, state = _read(thread / "stat").rpartition(") ")
    return state[:1] not in ("S", "")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # the thread has ended
        return ""


# Registered before a script can register anything that still exchanges at the end, so run after it.
atexit.register(wait_for_gloo)
