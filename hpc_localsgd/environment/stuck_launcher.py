"""What a user can do about a launcher that outlives its ranks."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from hpc_localsgd.environment.allocation import processes_above

OF_MPI = ("mpirun", "mpiexec", "prterun", "orterun")


def about_the_launcher(above: Sequence[tuple[int, list[str]]] | None = None) -> str:
    """Return what to do if mpirun waits for a host out of reach; "" without a mpirun above.

    The kernel sends again for 15 minutes before it gives up a connection. SIGTERM makes mpirun ask
    that host once more; only SIGKILL ends it.

    Args:
        above: Number and words of the processes above, the nearest first; None: of this process.
    """
    for pid, words in processes_above() if above is None else above:
        if words and (name := os.path.basename(words[0])) in OF_MPI:
            return (
                f"All ranks end now. Where a host cannot be reached any more {name} waits for it, "
                f"for a quarter of an hour: `kill -9 {pid}` on {socket.gethostname()} ends it"
            )
    return ""
