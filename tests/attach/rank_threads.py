"""Several ranks as threads of the test's own process, and a log of what each of them sent.

A rank that waits for something the others never do breaks the barrier and fails the test, and so
do ranks that exchange different things.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.transport import Transport

T = TypeVar("T")
TIMEOUT_S = 20


class Meeting:
    """Where n threads exchange tensors."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.barrier = threading.Barrier(n, timeout=TIMEOUT_S)
        self.table: list[Any] = [None] * n

    def swap(self, rank: int, what: str, v: Any) -> list[Any]:
        """The v of all ranks, in order."""
        self.table[rank] = (what, v)
        self.barrier.wait()
        everything = list(self.table)
        self.barrier.wait()
        said = {name for name, _ in everything}
        assert len(said) == 1, f"the ranks exchange different things: {said}"
        return [value for _, value in everything]


class Patient(Meeting):
    """Where ranks that exchange different things wait for each other, as in a library, in vain."""

    def __init__(self, n: int, timeout_s: float) -> None:
        super().__init__(n)
        self._timeout_s, self._lock, self._over = timeout_s, threading.Lock(), False
        self._rooms: dict[str, tuple[threading.Barrier, list[Any]]] = {}

    def swap(self, rank: int, what: str, v: Any) -> list[Any]:
        with self._lock:
            if self._over:
                raise threading.BrokenBarrierError
            fresh = (threading.Barrier(self.n, timeout=self._timeout_s), [None] * self.n)
            barrier, table = self._rooms.setdefault(what, fresh)
        table[rank] = v
        barrier.wait()
        everything = list(table)
        barrier.wait()
        return everything

    def end(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._over = True
            for barrier, _ in self._rooms.values():
                barrier.abort()


class ThreadTransport(Transport):
    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.rank, self.n, self.meeting = rank, meeting.n, meeting
        self.log: list[tuple[str, int]] = []
        self.in_flight: list[torch.Tensor] = []

    def _swap(self, what: str, v: torch.Tensor) -> list[torch.Tensor]:
        self.log.append((what, v.numel()))
        assert v.is_contiguous()
        sent = v.detach().clone()
        return self.meeting.swap(self.rank, f"{what} {v.dtype} {tuple(v.shape)}", sent)

    def average(self, v: torch.Tensor, ranks: int) -> None:
        begin = self.rank // ranks * ranks
        v.copy_(torch.stack(self._swap("average", v)[begin : begin + ranks]).sum(0) / ranks)

    def begin_average(self, v: torch.Tensor) -> Callable[[], None]:
        self.in_flight.append(v)
        came = self._swap("begin_average", v)
        at_begin = v.clone()

        def finish() -> None:
            assert torch.equal(v.nan_to_num(), at_begin.nan_to_num()), (
                "changed while it was under way"
            )
            self.in_flight.pop(next(i for i, w in enumerate(self.in_flight) if w is v))
            v.copy_(torch.stack(came).sum(0) / self.n)

        return finish

    def broadcast(self, v: torch.Tensor) -> None:
        v.copy_(self._swap("broadcast", v)[0])

    def allgather(self, v: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._swap("allgather", v))

    def alltoall(self, v: torch.Tensor) -> torch.Tensor:
        return torch.stack([came[self.rank] for came in self._swap("alltoall", v)])

    def exchange(
        self, send: Mapping[int, torch.Tensor], receive: Mapping[int, int], like: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        copies = {d: rows.clone() for d, rows in send.items()}
        everything = self.meeting.swap(self.rank, "exchange", copies)
        return {s: everything[s][self.rank] for s in receive}

    def close(self) -> None:
        pass

    def end(self, status: int) -> None:
        """A thread cannot be ended: let it fail where it waits, as in a library that gave up."""
        del status
        if isinstance(self.meeting, Patient):
            self.meeting.end()
        self.meeting.barrier.abort()


class ThreadWorld(World):
    """One worker in each thread, or K dealt to them."""

    def __init__(self, meeting: Meeting, rank: int, workers: int | None = None) -> None:
        self.transport = ThreadTransport(meeting, rank)
        super().__init__(workers, self.transport, torch.device("cpu"))

    def __repr__(self) -> str:
        return f"threads({self.n})"

    def restarted(self) -> ThreadWorld:
        """The same rank of a job that was started again."""
        return ThreadWorld(self.transport.meeting, self.rank)

    @property
    def log(self) -> list[tuple[str, int]]:
        """What was sent: operation and length, gathers for agreement left out."""
        return [entry for entry in self.transport.log if entry[0] != "allgather"]


def on_ranks(n: int, work: Callable[[ThreadWorld], T], workers: int | None = None) -> list[T]:
    """Run `work(world)` on n ranks at once; what they returned, or the first rank's error."""
    meeting = Meeting(n)

    def guarded(rank: int) -> T:
        try:
            return work(ThreadWorld(meeting, rank, workers))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(n) as pool:
        futures = [pool.submit(guarded, rank) for rank in range(n)]
    errors = [e for e in (f.exception() for f in futures) if e is not None]
    real = [e for e in errors if not isinstance(e, threading.BrokenBarrierError)]
    if errors:
        raise (real or errors)[0]
    return [future.result() for future in futures]


def errors_on_ranks(n: int, work: Callable[[ThreadWorld], object]) -> list[str]:
    """What every rank complained of; fails if one did not."""
    meeting = Meeting(n)

    def complaint(rank: int) -> str:
        try:
            work(ThreadWorld(meeting, rank))
        except threading.BrokenBarrierError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        raise AssertionError(f"rank {rank} did not complain")

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(complaint, range(n)))
