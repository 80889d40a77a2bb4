"""Ctrl-C at a command that keeps no place: one line, and the status that shells expect."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType, TracebackType

CONTINUES = ("landscape", "pack", "sharpness")  # what they have computed is on the disk


def say_in_a_line() -> None:
    """Let an interrupt that nothing catches end this process with a line, not with a page.

    It ends by the signal then, as shells and launchers expect: 130 in a shell.
    """
    before = sys.excepthook

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            return before(kind, error, trace)
        _say()

    sys.excepthook = say
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def line(argv: list[str]) -> str:
    """Say that a command was interrupted, and how it goes on.

    Args:
        argv: As in `sys`.

    >>> line(["hpc_localsgd", "pack", "images", "images.h5"])
    'python -m hpc_localsgd pack: interrupted; type the same command again to continue'
    """
    command = argv[1] if len(argv) > 1 and argv[1].isalpha() else ""
    again = "type the same command again to continue"
    if "--overwrite" in argv:
        again = "type the same command without --overwrite to continue"
    how = f"; {again}" if command in CONTINUES else ""
    return f"{f'python -m hpc_localsgd {command}'.rstrip()}: interrupted{how}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but in an import end at once.

    Libraries in C that import others drop what is raised there (torch that of numpy), and leave
    half a module behind, of which something else fails later.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _say()
            if written := sys.modules.get("hpc_localsgd.trajectory.whole_file"):
                written.leave_nothing()
            os.kill(os.getpid(), number)
        frame = frame.f_back
    raise KeyboardInterrupt


def _say() -> None:
    """Say it; a second interrupt ends this process at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.write(f"{line(sys.argv)}\n")
        sys.stderr.flush()
