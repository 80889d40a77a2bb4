"""Standard output and error that outlive their reader: `train | head`, a full log disk.

The record is what a run is for. When the reader of its messages has gone, the run continues: the
messages are dropped, without a warning and without a traceback.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import TextIO

LEAST_COLUMNS = 40  # of a terminal; a narrower one breaks lines by itself
LOST = "cannot write standard output: {}; what would be said there is lost\n"


class _Outliving(io.FileIO):
    """A file descriptor that drops what cannot be written to it."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self._told = False

    def write(self, content: bytes) -> int:  # type: ignore[override]  # any buffer
        """Write, or drop what cannot be written; return the number of bytes either way."""
        try:
            return super().write(content) or 0
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for libraries in C too
            os.close(nowhere)
        except OSError as error:
            if not self._told and self.fileno() != 2:
                self._told = True  # first: this very message may fail
                sys.stderr.write(LOST.format(error.strerror))
        return len(memoryview(content).cast("B"))


def put(text: str) -> None:
    """Print a text at once and in one piece: launchers tag every write, and tear apart others.

    Characters that the terminal does not have are replaced.
    """
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stdout.flush()


def columns_of_output(launched: bool = False) -> int | None:
    """Return the width of the terminal that standard output is; None for a file or a pipe.

    Args:
        launched: Whether a launcher started this process. Launchers give their ranks a terminal
            even where their own output is a file: it is nobody's.
    """
    if launched or not sys.stdout.isatty():
        return None
    return max(shutil.get_terminal_size().columns, LEAST_COLUMNS)


def outlive_readers() -> None:
    """Make `sys.stdout` and `sys.stderr` drop what nobody reads, until the process ends."""
    sys.stdout, sys.stderr = _outliving(sys.stdout), _outliving(sys.stderr)


def _outliving(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed by the shell: `>&-`
        return open(os.devnull, "w")
    stream.flush()
    file, unbuffered = _Outliving(stream.fileno()), getattr(stream, "write_through", False)
    return io.TextIOWrapper(
        file if unbuffered else io.BufferedWriter(file),  # type: ignore  # as `python -u` does
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.isatty() or stream.fileno() == 2,
        write_through=unbuffered,
    )
