"""How K workers are placed on n ranks: 8 on 3 ranks are 3, 3 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from hpc_localsgd.errors import ConfigurationError


@dataclass(frozen=True)
class Placement:
    """K workers on n ranks, in order; the first K % n ranks host one more than the others.

    Attributes:
        K: Workers.
        n: Ranks.
    """

    K: int
    n: int

    def __post_init__(self) -> None:
        if self.K < 1:
            raise ConfigurationError(f"there has to be at least one worker, got --workers {self.K}")
        if self.K < self.n or self.n < 1:
            raise ConfigurationError(
                f"{self.K} workers cannot be placed on {self.n} ranks: every rank hosts at least "
                f"one, so start at most {self.K}, or give more --workers"
            )

    def __str__(self) -> str:
        """Say how many workers the ranks have."""
        few, extra = divmod(self.K, self.n)
        if not extra:
            return f"{few} on each of {self.n} ranks" if self.n > 1 else f"{few} on one rank"
        return f"{few + 1} on {extra} ranks and {few} on {self.n - extra}"

    @property
    def even(self) -> bool:
        """Whether every rank hosts as many."""
        return self.K % self.n == 0

    @property
    def idle(self) -> float:
        """Share of the ranks' computing time that waits for the ranks with most workers."""
        return 1 - self.K / (self.n * self.most)

    @property
    def most(self) -> int:
        """Workers of the ranks that host most."""
        return -(-self.K // self.n)

    @cached_property
    def firsts(self) -> np.ndarray:
        """The first worker of each rank, and K: [n + 1]."""
        r = np.arange(self.n + 1)
        return r * (self.K // self.n) + np.minimum(r, self.K % self.n)

    @property
    def leaders(self) -> np.ndarray:
        """The first worker of each rank, whose row stands for what is the rank's: [n]."""
        return self.firsts[:-1]

    def workers_of(self, rank: int) -> range:
        """Return the workers of a rank."""
        return range(int(self.firsts[rank]), int(self.firsts[rank + 1]))

    def rank_of(self, worker: int) -> int:
        """Return the rank of a worker."""
        return int(np.searchsorted(self.firsts, worker, side="right")) - 1

    def ranks_of_block(self, block: int) -> int:
        """Return the number of ranks of a block of workers, where all blocks have as many.

        1 if they lie within ranks, 0 if some block lies in part on several ranks.

        Raises:
            ConfigurationError: The block does not divide K.
        """
        if block < 1 or self.K % block:
            raise ConfigurationError(
                f"blocks of {block} workers do not fit {self.K} workers: a block divides {self.K}"
            )
        if block == self.K:
            return self.n
        R = self.most
        whole = block == 1 or (self.even and (block % R == 0 or R % block == 0))
        return max(1, block // R) if whole else 0

    def per_host(self, hosts: np.ndarray) -> int:
        """Return the number of workers on a host, from a number [K] for each worker's.

        Raises:
            ConfigurationError: Hosts have unequal numbers of workers, or ranks go round the hosts.
        """
        lengths = np.diff(np.flatnonzero(np.diff(hosts, prepend=np.nan, append=np.nan)))
        if len(set(lengths)) != 1 or len(lengths) != len(set(hosts)):
            raise ConfigurationError(
                f"hosts have {lengths.tolist()} workers in a row: start the same number of ranks "
                "on every host, filling one host after the other, or give block sizes"
            )
        return int(lengths[0])

    def padded(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows [R, ...] of any rank as [most, ...], contiguous: of one shape on all."""
        short = self.most - len(rows)
        if short:
            rows = torch.cat([rows, rows.new_zeros((short, *rows.shape[1:]))])
        return rows.contiguous()

    def together(self, padded: torch.Tensor) -> torch.Tensor:
        """Return the rows [K, ...] of all workers from those of all ranks, [n, most, ...]."""
        rows = padded.flatten(0, 1)
        if self.even:
            return rows
        there = np.concatenate(
            [r * self.most + np.arange(len(self.workers_of(r))) for r in range(self.n)]
        )
        return rows[torch.from_numpy(there).to(rows.device)]
