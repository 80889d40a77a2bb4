"""Ranks that talk through torch.distributed: NCCL on GPUs, Gloo on CPUs, no Horovod, no MPI."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch

from hpc_localsgd.worlds import gloo_threads  # noqa: F401  # waits for them at the end
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.rendezvous import meet
from hpc_localsgd.worlds.transport import Transport, rank_group


class Torch(World):
    """One rank per process of torchrun, srun or mpirun, R workers in each."""

    def __init__(
        self,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        rank: int | None = None,
        n: int | None = None,
        group: Any = None,
    ) -> None:
        """Join the ranks of a process group, torch's default one if none is given.

        Args:
            workers: K; one a rank if not given.
            device: Where their parameters live.
            rank: As the launcher says, to start torch.distributed where the script has not.
            n: Number of processes, from the same source.
            group: What `torch.distributed.new_group` gave to this rank, to train its ranks alone.
        """
        device = torch.device(device)
        self._torch = TorchTransport(device, rank, n, group)
        super().__init__(workers, self._torch, device)

    def __repr__(self) -> str:
        """Say which library moves the bytes."""
        return f"torch({self.place}, {self._torch.backend})"

    @property
    def everybody(self) -> bool:
        """Whether all ranks of torch.distributed are in it."""
        return self._torch.everybody


def among(ranks: Sequence[int], device: torch.device) -> Torch:
    """Join some ranks of torch's default group, one worker in each. A collective of these alone.

    Args:
        ranks: As torch counts them, in ascending order; the same on all of them.
        device: Where their parameters live.
    """
    import torch.distributed as dist

    if len(ranks) == dist.get_world_size():
        return Torch(None, device)
    group = dist.new_group(list(ranks), use_local_synchronization=True)
    return Torch(None, device, group=group)


LEAVE_WITHIN_S = 2.0  # for an average that is under way at the end
OF_HOSTS = 0  # the key of the group of all ranks that moves what lies in host memory


class TorchTransport(Transport):
    """torch.distributed's default group, or one started here if there is none.

    Groups are held by torch alone: whoever ends one ends its threads with it, where nothing else
    holds it. A group of the script's that is never ended is left as it is: see `gloo_threads`.
    """

    def __init__(
        self,
        device: torch.device,
        rank: int | None = None,
        n: int | None = None,
        group: Any = None,
    ) -> None:
        import torch.distributed as dist

        self._dist: Any = dist
        self.backend = "nccl" if device.type == "cuda" else "gloo"
        self._own = not dist.is_initialized()
        if self._own:
            meet(os.environ, rank, n)
            dist.init_process_group(self.backend)
            atexit.register(self._leave)
        self.backend = self._backend(group, device)  # the script's own, if it began the group
        self._everybody = group is None
        everybody = group or dist.group.WORLD
        self.rank, self.n = dist.get_rank(everybody), dist.get_world_size(everybody)
        self._ranks = dist.get_process_group_ranks(everybody)  # as torch's default group counts
        self._device = device
        self._groups: WeakValueDictionary[int, Any] = WeakValueDictionary({self.n: everybody})
        self._begun: Any = None

    def prepare(self, ranks: int) -> None:
        """Make the group of this rank's block, once."""
        if ranks > 1:
            self._group(ranks)

    def average(self, v: torch.Tensor, ranks: int) -> None:
        """Average by all_reduce (a sum: Gloo has no average), then a division."""
        self._dist.all_reduce(v, group=self._group(ranks))
        v /= ranks

    def begin_average(self, v: torch.Tensor) -> Callable[[], None]:
        """Begin an average by all_reduce with async_op."""
        work = self._begun = self._dist.all_reduce(v, group=self._all, async_op=True)

        def finish() -> None:
            work.wait()
            v.div_(self.n)

        return finish

    def broadcast(self, v: torch.Tensor) -> None:
        """Broadcast from rank 0."""
        self._dist.broadcast(v, src=self._ranks[0], group=self._all)

    def allgather(self, v: torch.Tensor) -> torch.Tensor:
        """Gather by all_gather, on the device of the group."""
        sent = v.to(self._device)
        received = [torch.empty_like(sent) for _ in range(self.n)]
        self._dist.all_gather(received, sent, group=self._all)
        return torch.stack(received).to(v.device)

    def allgather_host(self, v: torch.Tensor) -> torch.Tensor:
        """Gather by Gloo: NCCL would let it wait behind an average that is under way."""
        if OF_HOSTS not in self._groups:
            ours = self._backend(self._all, v.device) == "gloo"
            of_hosts = self._all if ours else self._new_group(range(self.n), "gloo")
            self._groups[OF_HOSTS] = of_hosts
        received = [torch.empty_like(v) for _ in range(self.n)]
        self._dist.all_gather(received, v, group=self._groups[OF_HOSTS])
        return torch.stack(received)

    def alltoall(self, v: torch.Tensor) -> torch.Tensor:
        """Exchange by all_to_all_single."""
        received = torch.empty_like(v)
        self._dist.all_to_all_single(received, v, group=self._all)
        return received

    def exchange(
        self, send: Mapping[int, torch.Tensor], receive: Mapping[int, int], like: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        """Exchange rows by batched isend and irecv."""
        P2P, dist = self._dist.P2POp, self._dist
        came = {s: like.new_empty((m, like.shape[1])) for s, m in receive.items()}
        ranks, group = self._ranks, self._all
        work = [P2P(dist.irecv, rows, ranks[s], group) for s, rows in came.items()]
        work += [P2P(dist.isend, rows.contiguous(), ranks[d], group) for d, rows in send.items()]
        for request in dist.batch_isend_irecv(work) if work else ():
            request.wait()
        return came

    def close(self) -> None:
        """Leave the groups, if they were started here."""
        if self._own and self._dist.is_initialized():
            self._dist.barrier()
            self._leave()

    def _leave(self) -> None:
        """End the process group that was started here, and wait for its threads.

        Not for an average that stays under way, whose other ranks may be gone: torch's own wait for
        it has no bound.
        """
        atexit.unregister(self._leave)
        if self._dist.is_initialized():
            end = time.monotonic() + LEAVE_WITHIN_S
            while self._under_way and time.monotonic() < end:
                time.sleep(0.01)
            self._left = self._all if self._under_way else None
            self._dist.destroy_process_group()

    @property
    def _under_way(self) -> bool:
        return self._begun is not None and not self._begun.is_completed()

    @property
    def _all(self) -> Any:
        return self._group(self.n)

    def _group(self, ranks: int) -> Any:
        """Return the group of this rank's block; all ranks make all groups in one order."""
        if ranks not in self._groups:
            blocks = [range(b, b + ranks) for b in range(0, self.n, ranks)]
            made = [self._new_group(block) for block in blocks if self._makes(block)]
            self._groups[ranks] = made[self.rank // ranks if self._everybody else 0]
        return self._groups[ranks]

    def _makes(self, block: range) -> bool:
        """Return whether this rank makes a group: all make all, in part of a job members only."""
        return self._everybody or self.rank in block

    def _new_group(self, block: range, backend: str | None = None) -> Any:
        ranks = [self._ranks[r] for r in block]
        return self._dist.new_group(
            ranks, backend=backend, use_local_synchronization=not self._everybody
        )

    def _backend(self, group: Any, device: torch.device) -> str:
        """Return what moves the tensors of a device in a group; "" if nothing does.

        `get_backend` names one only where a script named one: not after `init_process_group()`.
        """
        backends = self._dist.get_backend_config(group)  # "cpu:gloo,cuda:nccl"
        return dict(pair.split(":") for pair in backends.split(",")).get(device.type, "")

    @property
    def everybody(self) -> bool:
        """Whether these are all ranks of torch.distributed."""
        return self.n == int(self._dist.get_world_size())

    def lost(self, error: Exception) -> bool:
        """Return whether NCCL, Gloo or the store raised it; Gloo's is known by its source alone."""
        of_gloo = isinstance(error, RuntimeError) and "gloo/transport" in str(error)
        return isinstance(error, self._dist.DistError) or of_gloo

    @property
    def rank_group(self) -> object:
        """All ranks of torch.distributed, or those of the group that was given."""
        return rank_group("torch", self.rank, self.n) if self._everybody else self
