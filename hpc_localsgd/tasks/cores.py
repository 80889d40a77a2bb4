"""What a rank has of its host's cores, by the launcher's variables and the system."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
_ASKED_FOR = ("MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")  # where no launcher has counted


def local_size(environ: Mapping[str, str]) -> int:
    """Return the ranks on this host, from the launcher's variables; 1 if none says."""
    for name in (*LOCAL_SIZES, *_ASKED_FOR):
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    return 1


@dataclass(frozen=True)
class Share:
    """A rank's part of its host.

    Attributes:
        cores: At least one.
        crowded: Whether there are more ranks than cores for them.
    """

    cores: int
    crowded: bool


def share_of_rank(
    environ: Mapping[str, str] = os.environ, mine: int | None = None, around: int | None = None
) -> Share:
    """Return the cores of this rank, ignoring the number of threads asked for.

    Args:
        environ: Has the launcher's variables.
        mine: Cores this process may run on; asked of the system if not given.
        around: The most cores a process above this one may run on, given as `mine` is.
    """
    ranks, mine = local_size(environ), mine or _allowed(0)
    if ranks == 1:
        return Share(mine, crowded=False)
    around = around or _cores_above()
    # A launcher that binds its ranks gives each fewer cores than it has itself.
    bound = mine < around and mine * ranks <= around
    cores = _asked(environ) or (mine if bound else mine // ranks)
    return Share(max(1, cores), crowded=not bound and ranks > mine)


def _allowed(pid: int) -> int:
    """Return the cores a process may run on; 0 is this process."""
    known = hasattr(os, "sched_getaffinity")  # on Linux
    return len(os.sched_getaffinity(pid)) if known else os.cpu_count() or 1


def _cores_above() -> int:
    """Return the most cores that this process or one above it may run on."""
    pid, most = os.getpid(), 1
    while pid > 0:
        try:
            most = max(most, _allowed(pid))
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # above what we may look at
            break
        pid = int(next(line for line in status.splitlines() if line.startswith("PPid:"))[5:])
    return most


def _asked(environ: Mapping[str, str]) -> int:
    """Return the cores that a rank asked Slurm for; 0 if it did not."""
    text = environ.get("SLURM_CPUS_PER_TASK", "")
    return int(text) if text.isdecimal() else 0
