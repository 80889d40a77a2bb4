"""What commands that only read records share: no world, no torch, and the same refusals."""

from __future__ import annotations

from collections.abc import Callable

from hpc_localsgd.commands.exit_codes import FAULT, OK, complain
from hpc_localsgd.trajectory import TrajectoryError
from hpc_localsgd.trajectory.whole_file import FULL

MISSES = 3  # in a row, of who watches a run: a read may fall into a flush


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
        if error.filename is None:  # of no file that was asked for
            raise
        said = f"{error.filename}: {error.strerror}"
        how = "make space, or give another --out" if error.errno in FULL else "give --out a folder"
        complain(f"cannot write {said}; {how}" if writes else said, prog)
        return FAULT
    return OK
