"""Sharing a host's cores among the ranks on it, settled before torch and MPI start.

MPI ranks spin while they wait, and torch takes all cores by default. With more ranks than cores
that makes a run of seconds one of minutes (measured: 4 ranks on 2 cores, 300 steps, over 45 s
spinning and under 1 s yielding). What the user has set stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from hpc_localsgd.tasks.cores import local_size, share_of_rank


def share_cores(
    environ: MutableMapping[str, str] = os.environ,
    mine: int | None = None,
    around: int | None = None,
) -> None:
    """Set threads per rank, and yielding where ranks outnumber cores, unless already set.

    Args:
        environ: Changed in place; read by torch's OpenMP and by MPI when they start.
        mine: As in `share_of_rank`.
        around: Likewise.
    """
    if local_size(environ) == 1:
        return
    share = share_of_rank(environ, mine, around)
    environ.setdefault("OMP_NUM_THREADS", str(share.cores))
    if share.crowded:
        environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
