"""What commands that only read records share: no world, no torch, and the same refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hpc_localsgd.commands.exit_codes import FAULT, OK, complain
from hpc_localsgd.errors import of_file
from hpc_localsgd.trajectory import TrajectoryError
from hpc_localsgd.trajectory.whole_file import FULL

MISSES = 3  # in a row


class Misses:
    """Reads of who watches a run, of which one may fall into a flush."""

    def __init__(self) -> None:
        """Begin without a miss."""
        self._in_a_row = 0

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a read fail inside the block, but not too often in a row.

        Raises:
            TrajectoryError: Of the read, once too often.
        """
        try:
            yield
            self._in_a_row = 0
        except TrajectoryError:
            self._in_a_row += 1
            if self._in_a_row > MISSES:
                raise


def attempt(prog: str, work: Callable[[], object], writes: bool = False) -> int:
    """Do the work of a command; return its exit status.

    A record that cannot be read, or a file that cannot be written, is said in one line.

    Args:
        prog: The command, for messages.
        work: What it does.
        writes: Whether it writes files, where `--out` says.
    """
    try:
        work()
    except TrajectoryError as error:
        complain(str(error), prog)
        return FAULT
    except OSError as error:
        said = of_file(error)
        how = "make space, or give another --out" if error.errno in FULL else "give --out a folder"
        complain(f"cannot write {said}; {how}" if writes else said, prog)
        return FAULT
    return OK
