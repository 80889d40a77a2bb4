"""Ranks that talk through Horovod: MPI, Gloo or NCCL, whichever it was built and started with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.horovod_cycle_time import shorten_cycles
from hpc_localsgd.worlds.mpi import MpiTransport, mpi_module, on_host
from hpc_localsgd.worlds.transport import Transport, rank_group

BROADCAST_AT_MOST = 1 << 30  # elements; Horovod hands their number to MPI as an int, unasked


class Horovod(World):
    """One rank per Horovod process, R workers in each; every collective is Horovod's.

    Attributes:
        ends_for_all: Whether a process that ends takes MPI from ranks that wait in it.
    """

    def __init__(
        self,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        process_set: Any = None,
    ) -> None:
        """Join the ranks that the script has given to `hvd.init`, or all if it has not called it.

        Args:
            workers: K; one a rank if not given.
            device: Where their parameters live.
            process_set: A `hvd.ProcessSet` with this rank in it, to train its ranks alone.
                Horovod ends for all sets when the process of one ends: let all ranks wait for
                each other at the end of the program (`hvd.barrier()`).

        Raises:
            ConfigurationError: There is no Horovod, or this rank is not in the process set.
        """
        device = torch.device(device)
        self._horovod = HorovodTransport(device, process_set)
        self.ends_for_all = self._horovod.ends_for_all
        super().__init__(workers, self._horovod, device)

    def __repr__(self) -> str:
        """Say which library moves the bytes, and how neighbours are reached."""
        library, neighbours = self._horovod.library, self._horovod.neighbours
        return f"horovod({self.place}, {library}, neighbours by {neighbours})"


class HorovodTransport(Transport):
    """Horovod's collectives, and mpi4py between neighbours where Horovod runs on MPI.

    Every collective carries a name made of what it does, the dtype and the length: unnamed ones
    are numbered per process, and one rank that makes an extra call would deadlock all. Horovod has
    no send and receive; without MPI, neighbours exchange rows by an all-to-all with splits.

    Raises:
        ConfigurationError: There is no Horovod, or this rank is not in the process set.
    """

    def __init__(self, device: torch.device, process_set: Any = None) -> None:
        try:
            import horovod.torch as hvd
            from horovod.common.exceptions import HorovodInternalError
        except ImportError as error:
            raise ConfigurationError(
                f"the horovod world needs Horovod, which cannot be imported ({error}): build it "
                "with `make env` or `python -m hpc_localsgd.environment.horovod`, "
                "or use --world mpi"
            ) from error
        os.environ.setdefault("HOROVOD_DYNAMIC_PROCESS_SETS", "1")  # blocks are known later
        shorten_cycles()
        # MPI is started by mpi4py, so that Horovod's shutdown does not finalise it while we use it.
        # Where the script has called hvd.init(), Horovod does so on all ranks as one of them ends.
        mpi = hvd.mpi_built() and "HOROVOD_GLOO_RENDEZVOUS_ADDR" not in os.environ
        self.ends_for_all = bool(mpi and hvd.is_initialized())
        self._MPI: Any = mpi_module() if mpi else None
        if not hvd.is_initialized():
            hvd.init()
        self._hvd: Any = hvd
        self._internal_error = HorovodInternalError
        self._everybody, self._all = process_set is None, process_set or hvd.global_process_set
        if not self._all.included():
            raise ConfigurationError(
                f"rank {hvd.rank()} is not in {self._all}: make the world, and attach, only on "
                "ranks that are"
            )
        self.rank, self.n = self._all.rank(), self._all.size()
        self._mpi = MpiTransport(self._comm_of_all(self._MPI)) if mpi else None
        if self._mpi is not None:
            self.exchanged_bytes = self._mpi.exchanged_bytes
        gpu = device.type == "cuda"
        self.library = "NCCL" if gpu and hvd.nccl_built() else "MPI" if mpi else "Gloo"
        self.staged = gpu and not hvd.cuda_built()
        through = " through host memory" if gpu else ""
        self.neighbours = f"mpi4py{through}" if mpi else "hvd.alltoall"
        self._sets: dict[int, Any] = {self.n: self._all}
        self._under_way: set[str] = set()

    def prepare(self, ranks: int) -> None:
        """Make the process set of this rank's block, once."""
        if ranks > 1:
            self._set(ranks)

    def average(self, v: torch.Tensor, ranks: int) -> None:
        """Average by hvd.allreduce_, over all ranks or a process set."""
        host, name = self._near(v), _name(f"average{ranks}", v)
        self._hvd.allreduce_(host, op=self._hvd.Average, name=name, process_set=self._set(ranks))
        _put_back(v, host)

    def begin_average(self, v: torch.Tensor) -> Callable[[], None]:
        """Begin an average by hvd.allreduce_async_."""
        host = self._near(v)
        name = self._free_name(_name("begun", v))
        handle = self._hvd.allreduce_async_(
            host, op=self._hvd.Average, name=name, process_set=self._all
        )

        def finish() -> None:
            self._hvd.synchronize(handle)
            self._under_way.remove(name)
            _put_back(v, host)

        return finish

    def broadcast(self, v: torch.Tensor) -> None:
        """Broadcast by hvd.broadcast_, in pieces that MPI, whose counts are 32 bits, can count."""
        host = self._near(v).contiguous()
        for part in host.view(-1).split(BROADCAST_AT_MOST):
            name = _name("broadcast", part)
            self._hvd.broadcast_(part, self._root(), name=name, process_set=self._all)
        _put_back(v, host)

    def allgather(self, v: torch.Tensor) -> torch.Tensor:
        """Gather by hvd.allgather."""
        sent, name = self._near(v).reshape(1, -1), _name("gather", v)
        received = self._hvd.allgather(sent, name=name, process_set=self._all)
        return received.reshape(self.n, *v.shape).to(v.device)

    def allgather_host(self, v: torch.Tensor) -> torch.Tensor:
        """Gather by mpi4py, without waiting for Horovod's thread to ask all ranks first."""
        mpi = self._by_mpi()
        return self.allgather(v) if mpi is None else mpi.allgather(v)

    def alltoall(self, v: torch.Tensor) -> torch.Tensor:
        """Exchange by hvd.alltoall with equal splits."""
        sent = self._near(v).reshape(self.n, -1)
        name = _name("alltoall", v)
        came = self._hvd.alltoall(sent, name=name, process_set=self._all)
        return came.reshape(v.shape).to(v.device)

    def _near(self, v: torch.Tensor) -> torch.Tensor:
        """Return the tensor, or a copy on the host where this Horovod cannot take a GPU's."""
        return on_host(v) if self.staged else v

    def exchange(
        self, send: Mapping[int, torch.Tensor], receive: Mapping[int, int], like: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        """Exchange rows by mpi4py's send and receive, or by hvd.alltoall with splits."""
        if (mpi := self._by_mpi()) is not None:
            return mpi.exchange(send, receive, like)
        splits = torch.tensor([len(send.get(d, ())) for d in range(self.n)], dtype=torch.int32)
        rows = [send[d] for d in range(self.n) if d in send]
        packed = self._near(torch.cat(rows) if rows else like.new_empty((0, like.shape[1])))
        name = f"exchange.{like.dtype}.{like.shape[1]}"
        came, _ = self._hvd.alltoall(packed, splits=splits, name=name, process_set=self._all)
        ranks = sorted(receive)
        parts = came.to(like.device).split([receive[s] for s in ranks])
        return dict(zip(ranks, parts, strict=True))

    def close(self) -> None:
        """Shut Horovod down, together: one rank's shutdown ends the exchanges of all."""
        if self._mpi is not None:
            self._mpi.close()
        self._hvd.barrier(process_set=self._all)
        if self._everybody:
            self._hvd.shutdown()

    def lost(self, error: Exception) -> bool:
        """Return whether Horovod was shut down, by a rank that ended or a failed network."""
        if self._mpi is not None and self._mpi.lost(error):
            return True
        return isinstance(error, self._internal_error) and "Mismatched" not in str(error)

    @property
    def rank_group(self) -> object:
        """All ranks of Horovod, or those of the process set that was given."""
        return rank_group("horovod", self.rank, self.n) if self._everybody else self

    def _by_mpi(self) -> MpiTransport | None:
        """Return what exchanges by mpi4py, if Horovod runs on MPI.

        Raises:
            HorovodInternalError: Horovod was shut down, and MPI with it, which would abort.
        """
        if self._mpi is not None and self._MPI.Is_finalized():
            said = "Horovod has been shut down, by this rank or by one that has ended"
            raise self._internal_error(said)
        return self._mpi

    def _root(self) -> int:
        """Return rank 0 of this world, as Horovod counts its ranks."""
        return 0 if self._everybody else int(self._all.ranks[0])

    def _comm_of_all(self, MPI: Any) -> Any:
        """Return an MPI communicator of exactly these ranks; only they take part in making it."""
        world = MPI.COMM_WORLD
        if world.size == self.n:
            return None
        own = torch.tensor([world.rank])
        ranks = self._hvd.allgather(own, name="ranks of MPI", process_set=self._all).tolist()
        return world.Create_group(world.group.Incl(ranks))

    def _free_name(self, name: str) -> str:
        """Return a name that nothing under way has; ranks begin and finish in one order."""
        number = next(i for i in count() if f"{name}.{i}" not in self._under_way)
        self._under_way.add(f"{name}.{number}")
        return f"{name}.{number}"

    def _set(self, ranks: int) -> Any:
        """Return the process set of this rank's block; all ranks make all sets in one order."""
        if ranks not in self._sets:
            if not self._everybody:
                raise ConfigurationError(
                    f"blocks of {ranks} ranks in {self._all}: Horovod makes process sets on all "
                    "ranks together, so a world of one cannot be divided further"
                )
            blocks = [list(range(b, b + ranks)) for b in range(0, self.n, ranks)]
            made = [self._hvd.add_process_set(block) for block in blocks]
            self._sets[ranks] = made[self.rank // ranks]
        return self._sets[ranks]


def _name(what: str, v: torch.Tensor) -> str:
    return f"{what}.{v.dtype}.{v.numel()}"


def _put_back(v: torch.Tensor, host: torch.Tensor) -> None:
    if host is not v:
        v.copy_(host)
