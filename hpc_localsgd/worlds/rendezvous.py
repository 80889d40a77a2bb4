"""Where the ranks of torch.distributed find each other when torchrun did not say.

torchrun sets MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE. Under mpirun or srun the ranks agree
through MPI if mpi4py is there: rank 0 picks a free port and tells the others.
"""

from __future__ import annotations

import socket
from collections.abc import MutableMapping

from hpc_localsgd.errors import ConfigurationError

NEEDED = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")


def meet(environ: MutableMapping[str, str], rank: int | None, n: int | None) -> None:
    """Fill in what torch.distributed reads from the environment.

    Args:
        environ: Changed in place.
        rank: As the launcher says; None if it does not.
        n: Number of processes, from the same source.

    Raises:
        ConfigurationError: There is no way to find the other ranks.
    """
    if all(name in environ for name in NEEDED):
        return
    if n == 1:
        found = ("127.0.0.1", _free_port(), 0, 1)
    else:
        found = _through_mpi(n)
    environ.update({name: str(value) for name, value in zip(NEEDED, found, strict=True)})


def _through_mpi(n: int | None) -> tuple[str, int, int, int]:
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ConfigurationError(
            "the torch world cannot find its other ranks: start it with torchrun, set "
            "MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE, or install mpi4py for mpirun and srun"
        ) from error
    comm = MPI.COMM_WORLD
    if n is not None and comm.Get_size() != n:
        raise ConfigurationError(f"{n} processes were started, and MPI joined {comm.Get_size()}")
    here = (socket.gethostname(), _free_port()) if comm.Get_rank() == 0 else None
    address, port = comm.bcast(here, root=0)
    return address, port, comm.Get_rank(), comm.Get_size()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
