"""Ranks that talk through Horovod: MPI, Gloo or NCCL, whichever it was built and started with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hpc_localsgd.types import ConfigurationError
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.mpi import MpiTransport
from hpc_localsgd.worlds.transport import Transport


class Horovod(World):
    """One rank per Horovod process, R workers in each; every collective is Horovod's."""

    def __init__(self, workers: int | None = None, device: torch.device | str = "cpu") -> None:
        self._horovod = HorovodTransport()
        super().__init__(workers, self._horovod, torch.device(device))

    def __repr__(self) -> str:
        """Says which library moves the bytes, and how neighbours are reached."""
        library, neighbours = self._horovod.library, self._horovod.neighbours
        return f"horovod({self.place}, {library}, neighbours by {neighbours})"


class HorovodTransport(Transport):
    """Horovod's collectives, and mpi4py between neighbours where Horovod runs on MPI.

    Every collective carries a name made of what it does, the dtype and the length: unnamed ones
    are numbered per process, and one rank that makes an extra call would deadlock all. Horovod has
    no send and receive; without MPI, neighbours exchange rows by an all-to-all with splits.
    """

    def __init__(self) -> None:
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise ConfigurationError(
                f"the horovod world needs Horovod, which cannot be imported ({error}): build it "
                "with `make env` or `python -m hpc_localsgd.environment.horovod`, "
                "or use --world mpi"
            ) from error
        os.environ.setdefault("HOROVOD_DYNAMIC_PROCESS_SETS", "1")  # blocks are known later
        # MPI is started by mpi4py, so that Horovod's shutdown does not finalise it under our feet.
        mpi = hvd.mpi_built() and "HOROVOD_GLOO_RENDEZVOUS_ADDR" not in os.environ
        self._mpi = MpiTransport() if mpi else None
        hvd.init()
        self._hvd: Any = hvd
        self.rank, self.n = hvd.rank(), hvd.size()
        nccl = torch.cuda.is_available() and hvd.nccl_built()
        self.library = "NCCL" if nccl else "MPI" if mpi else "Gloo"
        self.staged = not nccl
        self.neighbours = "mpi4py" if mpi else "hvd.alltoall"
        self._sets: dict[int, Any] = {self.n: hvd.global_process_set}

    def average(self, v: torch.Tensor, ranks: int) -> None:
        """hvd.allreduce_, over all ranks or a process set."""
        name = _name(f"average{ranks}", v)
        self._hvd.allreduce_(v, op=self._hvd.Average, name=name, process_set=self._set(ranks))

    def begin_average(self, v: torch.Tensor) -> Callable[[], None]:
        """hvd.allreduce_async_."""
        name = _name("begun", v)
        handle = self._hvd.allreduce_async_(v, op=self._hvd.Average, name=name)
        return lambda: self._hvd.synchronize(handle)

    def broadcast(self, v: torch.Tensor) -> None:
        """hvd.broadcast_."""
        self._hvd.broadcast_(v, root_rank=0, name=_name("broadcast", v))

    def allgather(self, v: torch.Tensor) -> torch.Tensor:
        """hvd.allgather."""
        received = self._hvd.allgather(v.reshape(1, -1), name=_name("gather", v))
        return received.reshape(self.n, *v.shape)

    def alltoall(self, v: torch.Tensor) -> torch.Tensor:
        """hvd.alltoall with equal splits."""
        return self._hvd.alltoall(v.reshape(self.n, -1), name=_name("alltoall", v)).reshape(v.shape)

    def exchange(
        self, send: Mapping[int, torch.Tensor], receive: Mapping[int, int], like: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        """mpi4py's send and receive, or hvd.alltoall with splits."""
        if self._mpi is not None:
            return self._mpi.exchange(send, receive, like)
        splits = torch.tensor([len(send.get(d, ())) for d in range(self.n)], dtype=torch.int32)
        rows = [send[d] for d in range(self.n) if d in send]
        packed = torch.cat(rows) if rows else like.new_empty((0, like.shape[1]))
        name = f"exchange.{like.dtype}.{like.shape[1]}"
        came, _ = self._hvd.alltoall(packed, splits=splits, name=name)
        ranks = sorted(receive)
        return dict(zip(ranks, came.split([receive[s] for s in ranks]), strict=True))

    def close(self) -> None:
        """Shut Horovod down. One rank's shutdown ends MPI on all, so all give back theirs first."""
        if self._mpi is not None:
            self._mpi.close()
            self._hvd.barrier()
        self._hvd.shutdown()

    def _set(self, ranks: int) -> Any:
        """The process set of this rank's block; all sets are made by all ranks, in one order."""
        if ranks not in self._sets:
            blocks = [list(range(b, b + ranks)) for b in range(0, self.n, ranks)]
            made = [self._hvd.add_process_set(block) for block in blocks]
            self._sets[ranks] = made[self.rank // ranks]
        return self._sets[ranks]


def _name(what: str, v: torch.Tensor) -> str:
    return f"{what}.{v.dtype}.{v.numel()}"
