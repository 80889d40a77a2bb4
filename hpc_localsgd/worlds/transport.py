"""What a library must provide to be a world: contiguous tensors moved between ranks."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache

import torch

from hpc_localsgd.worlds.process_end import end_process


class Transport(ABC):
    """n ranks that can talk. Tensors are contiguous; operations in place return nothing.

    All ranks call the same operations in the same order with the same shapes.

    Attributes:
        rank: This process.
        n: Number of processes.
        staged: Whether tensors on a GPU travel through host memory.
        exchanged_bytes: Of a long row that is mixed, as much is exchanged at a time.
    """

    rank: int = 0
    n: int = 1
    staged: bool = False
    exchanged_bytes: int = sys.maxsize

    def prepare(self, ranks: int) -> None:
        """Make what averages over `ranks` neighbouring ranks need; all ranks call it together."""
        del ranks

    @abstractmethod
    def average(self, v: torch.Tensor, ranks: int) -> None:
        """Average over all ranks, or over `ranks` neighbouring ones, in place."""

    @abstractmethod
    def begin_average(self, v: torch.Tensor) -> Callable[[], None]:
        """Begin the average over all ranks; calling the result waits until v holds it."""

    @abstractmethod
    def broadcast(self, v: torch.Tensor) -> None:
        """Copy rank 0's v to all ranks, in place."""

    @abstractmethod
    def allgather(self, v: torch.Tensor) -> torch.Tensor:
        """Return the v of all ranks, stacked: [n, *v.shape]."""

    def allgather_host(self, v: torch.Tensor) -> torch.Tensor:
        """Return the same for a few bytes in host memory, by whatever is fastest."""
        return self.allgather(v)

    @abstractmethod
    def alltoall(self, v: torch.Tensor) -> torch.Tensor:
        """Send v[d] to rank d, and return v with [s] from rank s. v: [n, ...]."""

    @abstractmethod
    def exchange(
        self, send: Mapping[int, torch.Tensor], receive: Mapping[int, int], like: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        """Exchange rows with single ranks.

        Args:
            send: Rank -> rows [m, P] that go there.
            receive: Rank -> how many rows come from there.
            like: Gives P, dtype and device of what comes.

        Returns:
            Rank -> the rows [m, P] that came.
        """

    @abstractmethod
    def close(self) -> None:
        """End the connection."""

    def lost(self, error: Exception) -> bool:
        """Return whether an error means that other ranks are out of reach, not a wrong call."""
        del error
        return False

    @property
    def rank_group(self) -> object:
        """The same object for all transports of this process that join the same ranks."""
        return self

    def end(self, status: int) -> None:
        """End this process from any thread, without asking a library in which another one waits."""
        end_process(status)

    def abort(self, code: int) -> None:
        """End this process at once; by default without any clean-up that might wait for others."""
        os._exit(code)


class RankGroup:
    """Ranks that meet through one library."""


@cache
def rank_group(library: str, rank: int, n: int) -> RankGroup:
    """Return the one object for all ranks that a library has joined."""
    del library, rank, n
    return RankGroup()


class Alone(Transport):
    """Transport of one rank: everything is already where it should be."""

    def average(self, v: torch.Tensor, ranks: int) -> None:
        """Keep v, which is its own average."""
        del v, ranks

    def begin_average(self, v: torch.Tensor) -> Callable[[], None]:
        """Return an average that is already done."""
        del v
        return lambda: None

    def broadcast(self, v: torch.Tensor) -> None:
        """Keep v: there is no other rank."""
        del v

    def allgather(self, v: torch.Tensor) -> torch.Tensor:
        """Return v, of one rank."""
        return v[None]

    def alltoall(self, v: torch.Tensor) -> torch.Tensor:
        """Return v, of one rank."""
        return v

    def exchange(
        self, send: Mapping[int, torch.Tensor], receive: Mapping[int, int], like: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        """Return no rows: there is no other rank."""
        del send, receive, like
        return {}

    def close(self) -> None:
        """Close nothing."""

    def abort(self, code: int) -> None:
        """Exit with the status, as one process.

        Raises:
            SystemExit: Always.
        """
        raise SystemExit(code)
