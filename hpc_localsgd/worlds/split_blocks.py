"""Averages over blocks of workers that straddle ranks: 8 workers in pairs on 3 ranks, say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.placement import Placement
    from hpc_localsgd.worlds.transport import Transport


class SplitBlocks:
    """Who shares which blocks with whom, seen from one rank.

    A rank adds up its workers of each block, and sends that to the other ranks of the block.

    Attributes:
        receive: Rank -> number of sums that come from it.
        sums_sent: To other ranks, in all.
    """

    def __init__(self, placement: Placement, block: int, rank: int) -> None:
        self._block, self._rank = block, rank
        self._touched = [_blocks(placement.workers_of(r), block) for r in range(placement.n)]
        self._of_rows = [k // block - self._mine.start for k in placement.workers_of(rank)]
        self._shared = {
            r: common
            for r, theirs in enumerate(self._touched)
            if r != rank and (common := sorted(set(theirs) & set(self._mine)))
        }
        self.receive = {r: len(common) for r, common in self._shared.items()}
        self.sums_sent = sum(self.receive.values())

    @property
    def _mine(self) -> range:
        return self._touched[self._rank]

    def average(self, x: Rows, transport: Transport) -> None:
        """Replace each of this rank's rows [R, P] by the average of its block, in place.

        Sums are added up in the order of ranks, so that a block has the same bits everywhere.
        """
        own = x.new_zeros((len(self._mine), x.shape[1]))
        own.index_add_(0, torch.tensor(self._of_rows, device=x.device), x)
        send = {r: own[self._places(r)] for r in self._shared}
        came = transport.exchange(send, self.receive, x)
        total = torch.zeros_like(own)
        for r in sorted([self._rank, *self._shared]):
            if r == self._rank:
                total += own
            else:
                total[self._places(r)] += came[r]
        x[:] = (total / self._block)[self._of_rows]

    def _places(self, rank: int) -> list[int]:
        """Return which of this rank's sums it shares with another one."""
        return [b - self._mine.start for b in self._shared[rank]]


def _blocks(workers: range, block: int) -> range:
    """Return the blocks that some neighbouring workers are of."""
    return range(workers.start // block, (workers.stop - 1) // block + 1)
