"""Ranks that talk through Horovod: MPI, Gloo or NCCL, whichever it was built and started with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import torch

from hpc_localsgd.types import ConfigurationError
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.mpi import MpiTransport, on_host
from hpc_localsgd.worlds.transport import Transport

BROADCAST_AT_MOST = 1 << 30  # elements; Horovod hands their number to MPI as an int, unasked


class Horovod(World):
    """One rank per Horovod process, R workers in each; every collective is Horovod's."""

    def __init__(self, workers: int | None = None, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        self._horovod = HorovodTransport(device)
        super().__init__(workers, self._horovod, device)

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

    def __init__(self, device: torch.device) -> None:
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise ConfigurationError(
                f"the horovod world needs Horovod, which cannot be imported ({error}): build it "
                "with `make env` or `python -m hpc_localsgd.environment.horovod`, "
                "or use --world mpi"
            ) from error
        os.environ.setdefault("HOROVOD_DYNAMIC_PROCESS_SETS", "1")  # blocks are known later
        if hasattr(hvd.mpi_ops.mpi_lib, "rests_when_idle"):  # short cycles cost nothing then
            os.environ.setdefault("HOROVOD_CYCLE_TIME", "0.1")
        # MPI is started by mpi4py, so that Horovod's shutdown does not finalise it under our feet.
        mpi = hvd.mpi_built() and "HOROVOD_GLOO_RENDEZVOUS_ADDR" not in os.environ
        self._mpi = MpiTransport() if mpi else None
        hvd.init()
        self._hvd: Any = hvd
        self.rank, self.n = hvd.rank(), hvd.size()
        gpu = device.type == "cuda"
        self.library = "NCCL" if gpu and hvd.nccl_built() else "MPI" if mpi else "Gloo"
        self.staged = gpu and not hvd.cuda_built()
        through = " through host memory" if gpu else ""
        self.neighbours = f"mpi4py{through}" if mpi else "hvd.alltoall"
        self._sets: dict[int, Any] = {self.n: hvd.global_process_set}
        self._under_way: set[str] = set()

    def prepare(self, ranks: int) -> None:
        """Make the process set of this rank's block, once."""
        if ranks > 1:
            self._set(ranks)

    def average(self, v: torch.Tensor, ranks: int) -> None:
        """hvd.allreduce_, over all ranks or a process set."""
        host, name = self._near(v), _name(f"average{ranks}", v)
        self._hvd.allreduce_(host, op=self._hvd.Average, name=name, process_set=self._set(ranks))
        _put_back(v, host)

    def begin_average(self, v: torch.Tensor) -> Callable[[], None]:
        """hvd.allreduce_async_."""
        host = self._near(v)
        name = self._free_name(_name("begun", v))
        handle = self._hvd.allreduce_async_(host, op=self._hvd.Average, name=name)

        def finish() -> None:
            self._hvd.synchronize(handle)
            self._under_way.remove(name)
            _put_back(v, host)

        return finish

    def broadcast(self, v: torch.Tensor) -> None:
        """hvd.broadcast_, in pieces that MPI, whose counts are 32 bits, can count."""
        host = self._near(v).contiguous()
        for part in host.view(-1).split(BROADCAST_AT_MOST):
            self._hvd.broadcast_(part, root_rank=0, name=_name("broadcast", part))
        _put_back(v, host)

    def allgather(self, v: torch.Tensor) -> torch.Tensor:
        """hvd.allgather."""
        received = self._hvd.allgather(self._near(v).reshape(1, -1), name=_name("gather", v))
        return received.reshape(self.n, *v.shape).to(v.device)

    def allgather_host(self, v: torch.Tensor) -> torch.Tensor:
        """mpi4py's, which need not wait for Horovod's thread to ask all ranks first."""
        return self.allgather(v) if self._mpi is None else self._mpi.allgather(v)

    def alltoall(self, v: torch.Tensor) -> torch.Tensor:
        """hvd.alltoall with equal splits."""
        sent = self._near(v).reshape(self.n, -1)
        return self._hvd.alltoall(sent, name=_name("alltoall", v)).reshape(v.shape).to(v.device)

    def _near(self, v: torch.Tensor) -> torch.Tensor:
        """The tensor itself, or a copy on the host where this Horovod cannot take a GPU's."""
        return on_host(v) if self.staged else v

    def exchange(
        self, send: Mapping[int, torch.Tensor], receive: Mapping[int, int], like: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        """mpi4py's send and receive, or hvd.alltoall with splits."""
        if self._mpi is not None:
            return self._mpi.exchange(send, receive, like)
        splits = torch.tensor([len(send.get(d, ())) for d in range(self.n)], dtype=torch.int32)
        rows = [send[d] for d in range(self.n) if d in send]
        packed = self._near(torch.cat(rows) if rows else like.new_empty((0, like.shape[1])))
        name = f"exchange.{like.dtype}.{like.shape[1]}"
        came, _ = self._hvd.alltoall(packed, splits=splits, name=name)
        ranks = sorted(receive)
        parts = came.to(like.device).split([receive[s] for s in ranks])
        return dict(zip(ranks, parts, strict=True))

    def close(self) -> None:
        """Shut Horovod down, together: one rank's shutdown ends the exchanges of all."""
        if self._mpi is not None:
            self._mpi.close()
        self._hvd.barrier()
        self._hvd.shutdown()

    def _free_name(self, name: str) -> str:
        """A name of this kind that nothing under way has; ranks begin and finish in one order."""
        number = next(i for i in count() if f"{name}.{i}" not in self._under_way)
        self._under_way.add(f"{name}.{number}")
        return f"{name}.{number}"

    def _set(self, ranks: int) -> Any:
        """The process set of this rank's block; all sets are made by all ranks, in one order."""
        if ranks not in self._sets:
            blocks = [list(range(b, b + ranks)) for b in range(0, self.n, ranks)]
            made = [self._hvd.add_process_set(block) for block in blocks]
            self._sets[ranks] = made[self.rank // ranks]
        return self._sets[ranks]


def _name(what: str, v: torch.Tensor) -> str:
    return f"{what}.{v.dtype}.{v.numel()}"


def _put_back(v: torch.Tensor, host: torch.Tensor) -> None:
    if host is not v:
        v.copy_(host)
