"""Sharing a host's cores among the ranks on it, settled before torch and MPI start.

MPI ranks spin while they wait, and torch takes all cores by default. With more ranks than cores
that makes a run of seconds one of minutes (measured: 4 ranks on 2 cores, 300 steps, over 45 s
spinning and under 1 s yielding). What the user has set stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

_LOCAL_SIZES = (
    "LOCAL_WORLD_SIZE",
    "HOROVOD_LOCAL_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_NTASKS_PER_NODE",
)


def local_size(environ: Mapping[str, str]) -> int:
    """Ranks on this host, from the launcher's variables; 1 if none says."""
    for name in _LOCAL_SIZES:
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    return 1


def share_cores(
    environ: MutableMapping[str, str] = os.environ,
    mine: int | None = None,
    around: int | None = None,
) -> None:
    """Set threads per rank, and yielding where ranks outnumber cores, unless already set.

    Args:
        environ: Changed in place; read by torch's OpenMP and by MPI when they start.
        mine: Cores this process may run on; asked of the system if not given.
        around: The most cores a process above this one may run on, likewise.
    """
    ranks = local_size(environ)
    if ranks == 1:
        return
    mine = mine or len(os.sched_getaffinity(0))
    around = around or _cores_above()
    # A launcher that binds its ranks gives each fewer cores than it has itself.
    bound = mine < around and mine * ranks <= around
    threads = _asked(environ) or (mine if bound else mine // ranks)
    environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
    if not bound and ranks > mine:
        environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")


def _cores_above() -> int:
    """The most cores that this process or one above it may run on."""
    pid, most = os.getpid(), 1
    while pid > 0:
        try:
            most = max(most, len(os.sched_getaffinity(pid)))
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # above what we may look at
            break
        pid = int(next(line for line in status.splitlines() if line.startswith("PPid:"))[5:])
    return most


def _asked(environ: Mapping[str, str]) -> int:
    """Cores a rank asked Slurm for; 0 if it did not."""
    text = environ.get("SLURM_CPUS_PER_TASK", "")
    return int(text) if text.isdecimal() else 0
