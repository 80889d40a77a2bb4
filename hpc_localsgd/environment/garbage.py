"""Python's garbage collection, switched off where there is no garbage: at the start and the end.

Importing torch makes some hundred thousand objects that live as long as the process. Looking
through them again and again as they come, and once more object by object as the process ends, is a
third of the processor time of a rank that trains for a moment; with many ranks a host, of its
start.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_in_own_process = False  # and not in one that imports the package among its own things


@contextmanager
def paused() -> Iterator[None]:
    """Collect nothing inside the block, which builds what stays."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Collect nothing inside the block, nor, in a process of ours, ever what it imports."""
    with paused():
        yield
        if _in_own_process:
            gc.freeze()  # the first collections behind torch took a tenth of a second each


def leave_at_exit() -> None:
    """Let the system take back this process's memory at its end, rather than object by object.

    The process is ours: what it imports stays, and is looked through by no collection.
    """
    global _in_own_process
    _in_own_process = True
    atexit.register(gc.freeze)  # files and libraries are closed by exit handlers of their own
