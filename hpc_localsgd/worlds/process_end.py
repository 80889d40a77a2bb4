"""The end of a process from any of its threads, whatever the others wait for."""

from __future__ import annotations

import _thread
import os
import sys
from contextlib import suppress
from typing import NoReturn

WRITTEN_WITHIN_S = 1.0


def end_process(status: int) -> NoReturn:
    """End this process with a status, and with what it has said if that can still be written.

    A reader that has gone makes a flush fail, and one that stands still (`| less`) lets another
    thread sit in a write with the stream locked: neither keeps the process. May be called by the
    handler of a signal, where a `threading.Thread` could wait for a lock of the code it interrupts.
    """
    try:
        writing = _thread.allocate_lock()
        writing.acquire()
        _thread.start_new_thread(_write_out, (writing,))
        writing.acquire(timeout=WRITTEN_WITHIN_S)
    finally:
        os._exit(status)


def _write_out(writing: _thread.LockType) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # gone, closed, or never there
            stream.flush()
    writing.release()
