"""Ranks that talk through MPI directly (mpi4py), for clusters where Horovod is not built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.transport import Transport, rank_group


class Mpi(World):
    """One rank per MPI process, R workers in each."""

    def __init__(
        self,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        comm: Any = None,
    ) -> None:
        """Join the ranks of an mpi4py communicator, `MPI.COMM_WORLD` if none is given.

        A collective of its ranks alone: several parts of one job can train side by side.
        """
        super().__init__(workers, MpiTransport(comm), torch.device(device))

    def __repr__(self) -> str:
        """Say how workers lie on ranks."""
        return f"mpi({self.place})"


class MpiTransport(Transport):
    """Buffers through MPI, on a communicator of our own, apart from all other messages.

    Tensors on a GPU travel through host memory: whether an MPI can take device pointers cannot be
    asked in a portable way, and guessing wrong is a segmentation fault.
    """

    staged = True
    exchanged_bytes = 2**21  # what comes stays in the cache until it is added up

    def __init__(self, comm: Any = None) -> None:
        self._MPI = MPI = mpi_module()
        self._everybody = comm is None
        self._comm = (MPI.COMM_WORLD if comm is None else comm).Dup()
        self.rank, self.n = self._comm.Get_rank(), self._comm.Get_size()
        self._blocks: dict[int, Any] = {self.n: self._comm}

    def prepare(self, ranks: int) -> None:
        """Make the group of this rank's block, once."""
        if ranks > 1:
            self._block(ranks)

    def average(self, v: torch.Tensor, ranks: int) -> None:
        """Average by MPI_Allreduce and a division, part by part.

        In place MPI needs a second buffer as large as what it is given. One that stays in the
        cache makes the whole 1.3 times faster than a single call (100 MB, 2 ranks).
        """
        host, comm = on_host(v), self._block(ranks)
        for part in host.view(-1).split(max(1, part_bytes(ranks) // host.itemsize)):
            comm.Allreduce(self._MPI.IN_PLACE, part.numpy(), self._MPI.SUM)
            part /= ranks
        if host is not v:
            v.copy_(host)

    def begin_average(self, v: torch.Tensor) -> Callable[[], None]:
        """Begin an average by MPI_Iallreduce."""
        host = on_host(v)
        request = self._comm.Iallreduce(self._MPI.IN_PLACE, host.numpy(), self._MPI.SUM)

        def finish() -> None:
            request.Wait()
            host.div_(self.n)
            if host is not v:
                v.copy_(host)

        return finish

    def broadcast(self, v: torch.Tensor) -> None:
        """Broadcast by MPI_Bcast."""
        host = on_host(v)
        self._comm.Bcast(host.numpy(), root=0)
        if host is not v:
            v.copy_(host)

    def allgather(self, v: torch.Tensor) -> torch.Tensor:
        """Gather by MPI_Allgather."""
        received = torch.empty((self.n, *v.shape), dtype=v.dtype)
        self._comm.Allgather(on_host(v).numpy(), received.numpy())
        return received.to(v.device)

    def alltoall(self, v: torch.Tensor) -> torch.Tensor:
        """Exchange by MPI_Alltoall."""
        received = torch.empty(v.shape, dtype=v.dtype)
        self._comm.Alltoall(on_host(v).numpy(), received.numpy())
        return received.to(v.device)

    def exchange(
        self, send: Mapping[int, torch.Tensor], receive: Mapping[int, int], like: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        """Exchange rows by MPI_Irecv and MPI_Isend."""
        P = like.shape[1]
        came = {s: torch.empty((m, P), dtype=like.dtype) for s, m in receive.items()}
        gone = {d: on_host(rows.contiguous()) for d, rows in send.items()}
        requests = [self._comm.Irecv(rows.numpy(), source=s) for s, rows in came.items()]
        requests += [self._comm.Isend(rows.numpy(), dest=d) for d, rows in gone.items()]
        self._MPI.Request.Waitall(requests)
        return {s: rows.to(like.device) for s, rows in came.items()}

    def lost(self, error: Exception) -> bool:
        """Return whether MPI itself reports the error, where it does not end the job."""
        return isinstance(error, self._MPI.Exception)

    @property
    def rank_group(self) -> object:
        """All ranks of MPI, or those of the communicator that was given."""
        return rank_group("mpi", self.rank, self.n) if self._everybody else self

    def close(self) -> None:
        """Free the communicators; MPI itself is finalised at exit."""
        for comm in self._blocks.values():
            comm.Free()

    def abort(self, code: int) -> None:
        """Call MPI_Abort: the launcher ends all ranks."""
        self._MPI.COMM_WORLD.Abort(code)

    def _block(self, ranks: int) -> Any:
        """Return the communicator of this rank's block; made once, by all ranks together."""
        if ranks not in self._blocks:
            self._blocks[ranks] = self._comm.Split(color=self.rank // ranks, key=self.rank)
        return self._blocks[ranks]


def mpi_module() -> Any:
    """Import mpi4py's MPI, which starts MPI, and return it.

    Raises:
        ConfigurationError: It cannot be imported.
    """
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ConfigurationError(
            f"the mpi world needs mpi4py, which cannot be imported ({error}): "
            "type `make env`, or `pip install mpi4py`"
        ) from error
    return MPI


def part_bytes(ranks: int) -> int:
    """Return the bytes averaged at a time: 4 MiB, more where many ranks share them."""
    return max(1, ranks // 4) * 2**22


def on_host(v: torch.Tensor) -> torch.Tensor:
    """Return the tensor on a CPU; from a GPU a copy in pinned memory, which is fastest."""
    if v.device.type == "cpu":
        return v
    return torch.empty(v.shape, dtype=v.dtype, pin_memory=True).copy_(v)
