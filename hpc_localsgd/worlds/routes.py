"""Who sends which rows to whom, so that every worker can mix its neighbours' models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.worlds.matmul_precision import full_precision_matmul

if TYPE_CHECKING:
    from hpc_localsgd.worlds.placement import Placement
    from hpc_localsgd.worlds.transport import Transport


class Routes:
    """The messages of one mixing matrix W [K, K], seen from one of n ranks.

    Attributes:
        vectors_sent: [R], rows each worker of this rank is asked for by other workers.
        receive: Rank -> number of rows that come from it.
        rows_to_ranks: Rows that leave this rank (a row wanted by two workers of a rank goes once).
    """

    def __init__(self, W: np.ndarray, rank: int, placement: Placement) -> None:
        n, firsts = placement.n, placement.firsts
        blocks = np.logical_or.reduceat(W != 0, placement.leaders)  # [n, K]: d wants row j
        np.fill_diagonal(wanted := W != 0, False)
        mine = slice(firsts[rank], firsts[rank + 1])
        self.vectors_sent = wanted.sum(0)[mine]
        wants = {s: np.flatnonzero(blocks[rank, firsts[s] : firsts[s + 1]]) for s in range(n)}
        gives = {d: np.flatnonzero(blocks[d, mine]) for d in range(n)}
        self._give = {d: rows for d, rows in gives.items() if len(rows) and d != rank}
        self.receive = {s: len(rows) for s, rows in wants.items() if len(rows) and s != rank}
        self.rows_to_ranks = sum(len(rows) for rows in self._give.values())
        columns = [np.arange(mine.start, mine.stop)]
        columns += [firsts[s] + wants[s] for s in self.receive]
        self._weights = W[mine][:, np.concatenate(columns)]  # [R, R + received]

    def pack(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """Return rank -> the rows of x [R, P] that go there; x itself to those who want it all."""
        return {
            d: x if len(rows) == len(x) else x[torch.from_numpy(rows).to(x.device)]
            for d, rows in self._give.items()
        }

    def mix_row(self, x: torch.Tensor, transport: Transport) -> torch.Tensor:
        """Mix the one row [1, P] of this rank, in place, and part by part where that is faster."""
        for part in x.split(max(1, transport.exchanged_bytes // x.itemsize), dim=1):
            came = transport.exchange(self.pack(part), self.receive, part)
            _add_weighted(part[0], self._weights[0], [r for s in self.receive for r in came[s]])
        return x

    def combine(self, x: torch.Tensor, received: dict[int, torch.Tensor]) -> torch.Tensor:
        """Return the mixed rows [R, P] from this rank's own and those that came."""
        rows = [row for s in self.receive for row in received[s]]
        if len(x) == 1:  # one worker a rank: no copy of its neighbours' models
            return _add_weighted(x[0].clone(), self._weights[0], rows)[None]
        with full_precision_matmul():
            return torch.from_numpy(self._weights).to(x) @ torch.stack([*x, *rows])


class KnownRoutes:
    """The routes of one of n ranks for the matrices so far, since a topology repeats itself."""

    def __init__(self, rank: int, placement: Placement) -> None:
        self._rank, self._dealing = rank, placement
        self._known: dict[bytes, Routes] = {}

    def of(self, W: np.ndarray) -> Routes:
        """Return the routes for a mixing matrix [K, K]."""
        key = W.tobytes()
        if key not in self._known:
            if len(self._known) > 64:  # random topologies never repeat
                self._known.clear()
            self._known[key] = Routes(W, self._rank, self._dealing)
        return self._known[key]


def _add_weighted(x: torch.Tensor, weights: np.ndarray, rows: list[torch.Tensor]) -> torch.Tensor:
    """Weigh x [P] with the first weight and add the rows with theirs, in place."""
    x.mul_(float(weights[0]))
    for weight, row in zip(weights[1:], rows, strict=True):
        if weight:
            x.add_(row, alpha=float(weight))
    return x
