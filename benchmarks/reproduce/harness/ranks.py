"""Ranks of `mpirun -np 2 python benchmarks/reproduce/...`: all train, the first one reports."""

from __future__ import annotations

import os

from hpc_localsgd.engine.launch import detect

LAUNCH = detect(os.environ)


def first() -> bool:
    """Return whether this rank prints and writes."""
    return LAUNCH.rank == 0


def barrier() -> None:
    """Wait for all ranks, so that all of them find the same files."""
    if (LAUNCH.size or 1) > 1:
        from mpi4py import MPI

        MPI.COMM_WORLD.Barrier()
