"""What a world is: who the workers are, and the only ways they communicate.

Every exchange acts on the rows [R, P] of the workers living in this process, in place, as
`hvd.allreduce_` does: a run needs no second copy of the parameters, and their storage is stable.
Averages go over the R rows first and over the ranks then, weighted by their rows, so K workers give
the same numbers on any number of ranks, up to the order of floating-point sums.
"""

from __future__ import annotations

import hashlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.cost.cost_model import Network, allreduce_wire_bytes
from hpc_localsgd.worlds.codec import mean_of_shares
from hpc_localsgd.worlds.exchange_scope import ExchangeScope
from hpc_localsgd.worlds.ledger import Ledger
from hpc_localsgd.worlds.pending import Pending
from hpc_localsgd.worlds.placement import Placement
from hpc_localsgd.worlds.routes import KnownRoutes
from hpc_localsgd.worlds.split_blocks import SplitBlocks
from hpc_localsgd.worlds.transport import Transport

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.codec import Codec
    from hpc_localsgd.worlds.routes import Routes


class World(ABC):
    """K workers on n ranks, R in each: K / n of them, where K is a multiple of n.

    What differs between worlds is the transport, which moves contiguous tensors between ranks;
    everything here is the same for all.

    Attributes:
        K: Workers of the run.
        n: Ranks, that is processes.
        rank: This process, 0..n-1.
        placement: Which rank hosts which workers.
        local_workers: The workers living here, a range of R numbers out of 0..K-1.
        device: Where their parameters live.
        ledger: Clock and byte counter.
        network: Predicts the seconds of an exchange where nothing real is sent; else None.
    """

    def __init__(
        self,
        workers: int | None,
        transport: Transport,
        device: torch.device,
        network: Network | None = None,
    ) -> None:
        self.n, self.rank, self._transport = transport.n, transport.rank, transport
        self.device, self.network = device, network
        self.place_workers(self.n if workers is None else workers)

    def place_workers(self, workers: int) -> None:
        """Place K workers on the ranks, before any state of theirs is made or exchanged.

        Raises:
            ConfigurationError: There are fewer than ranks.
        """
        self.K, self.placement = workers, Placement(workers, self.n)
        self.local_workers = self.placement.workers_of(self.rank)
        self.ledger = Ledger(self.R, self.device, modelled=self.network is not None)
        self.ledger.staged = self.device.type == "cuda" and self._transport.staged
        self._routes = KnownRoutes(self.rank, self.placement)
        self._split_blocks: dict[int, SplitBlocks] = {}

    @abstractmethod
    def __repr__(self) -> str:
        """Describe the world for a bug report and for the head of a trajectory."""

    @property
    def R(self) -> int:
        """Number of workers living here."""
        return len(self.local_workers)

    @property
    def place(self) -> str:
        """Arrangement of workers on ranks, their device, and whether host memory is used."""
        staged = ", staged through host memory" if self.ledger.staged else ""
        each = f"{self.n} x {self.placement.most}"
        if not self.placement.even:
            each = f"{self.K} on {self.n} ranks,"
        return f"{each} workers, {self.device}{staged}"

    def mean(self, x: Rows, block: int | None = None) -> Rows:
        """Replace each worker's row by the average over all K workers, or over its block, in place.

        Args:
            x: [R, P], the rows of the workers living here.
            block: Average only workers with the same k // block: those of one node, say. Divides K.

        Returns:
            The same tensor.

        Raises:
            ConfigurationError: The block does not divide K.
        """
        block = self.K if block is None else block
        ranks = self.ranks_of_block(block)
        payload = _row_bytes(x)
        if block > 1:
            sums = 0 if ranks else self._split_blocks[block].sums_sent
            wire = allreduce_wire_bytes(ranks, payload) if ranks else sums * payload
            self._bill(payload, wire, self._allreduce_s(payload, block))
        with self._exchanging():
            if not ranks:
                self._split_blocks[block].average(x, self._transport)
            elif ranks > 1:
                row = self._own_mean(x, keep=False)
                self._transport.average(row, ranks)
                if row.data_ptr() != x.data_ptr():
                    x[:] = row
            elif block > 1:
                blocks = x.unflatten(0, (-1, min(block, len(x))))
                x[:] = blocks.mean(1, keepdim=True).expand_as(blocks).flatten(0, 1)
        return x

    def begin_mean(self, x: Rows, keep: bool = True) -> Pending:
        """Begin the average over all K workers while they keep computing.

        Args:
            x: [R, P], the rows of the workers living here.
            keep: Leave x as it is. Otherwise it may not be used before `wait`, and with R = 1 it
                holds the average then, without a copy having been made.

        Returns:
            Its `wait` gives the average [P] of what x was now.
        """
        payload = _row_bytes(x)
        self._bill(payload, allreduce_wire_bytes(self.n, payload), 0.0)
        with self._exchanging():
            row = self._own_mean(x, keep)
            finish = self._transport.begin_average(row)

        def finished() -> None:
            with ExchangeScope(self._transport, self.rank):
                finish()

        return Pending(row, finished, self.ledger, self._allreduce_s(payload, self.K))

    def mix(self, x: Rows, W: np.ndarray) -> Rows:
        """Replace each worker's row by its row of W @ X, in place; only neighbours are sent to.

        Args:
            x: [R, P].
            W: [K, K], float64; row k has the weights with which worker k mixes all workers.
        """
        if self.R > 1:
            return x.copy_(self.mix_codes(x, W, lambda rows: rows))
        routes = self._routes_billed(x, W)
        with self._exchanging():
            return routes.mix_row(x, self._transport)

    def mix_codes(
        self, sent: torch.Tensor, W: np.ndarray, decode: Callable[[torch.Tensor], Rows]
    ) -> Rows:
        """Return each worker's row of W @ X, as `mix` does, where X travels as codes.

        Args:
            sent: [R, m], the codes of the workers living here.
            W: As for `mix`.
            decode: Return the rows [N, P] that codes [N, m] stand for.
        """
        routes = self._routes_billed(sent, W)
        with self._exchanging():
            came = self._transport.exchange(routes.pack(sent), routes.receive, sent)
            return routes.combine(decode(sent), {s: decode(rows) for s, rows in came.items()})

    def gather_bytes(self, sent: torch.Tensor) -> torch.Tensor:
        """Return every worker's bytes on every rank: uint8 [R, m] -> [K, m]. Billed, m a worker."""
        m = sent.shape[1]
        modelled_s = self.network.gather_s(self.K, m) if self.network else 0.0
        self._bill(m, (self.K - self.R) * m, modelled_s)
        with self._exchanging():
            return self.placement.together(self._transport.allgather(self.placement.padded(sent)))

    def mean_elementwise(self, x: Rows, codec: Codec) -> Rows:
        """Return the average of rows encoded number by number by such a codec, in place.

        Each rank averages its share of the numbers, decoded, and sends the average encoded again,
        so that a rank sends (R + 1) (n - 1) / n encoded copies: with R = 1 as many as an
        all-reduce; of unequal numbers of workers, all ranks send as many as that with most. What
        the second coding rounds off is in no worker's memory.
        """
        P, n = x.shape[1], self.n
        wire = (self.placement.most + 1) * (n - 1) * codec.payload((-(-P // n),))
        payload = codec.payload((P,))
        self._bill(payload, wire, self._allreduce_s(payload, self.K, coded=True))
        with self._exchanging():
            return x.copy_(mean_of_shares(x, codec, self.placement, self._transport))

    def broadcast(self, x: Rows) -> Rows:
        """Replace every row by that of worker 0, in place; not billed: part of starting a run."""
        with self.ledger.unbilled(), self._exchanging():
            row = x[0].contiguous()
            self._transport.broadcast(row)
            if len(x) > 1 or row.data_ptr() != x.data_ptr():
                x[:] = row
        return x

    def gather(self, v: np.ndarray) -> np.ndarray:
        """Return small host values of all workers, on every rank; not billed, for measurement.

        Args:
            v: [R, ...], one entry for each worker living here.

        Returns:
            [K, ...], of the same dtype.
        """
        with self.ledger.unbilled(), self._exchanging():
            raw = np.ascontiguousarray(v).view(np.uint8).reshape(self.R, -1)
            sent = self.placement.padded(torch.from_numpy(raw))
            rows = self.placement.together(self._transport.allgather_host(sent)).cpu().numpy()
        return rows.reshape(-1).view(v.dtype).reshape(self.K, *v.shape[1:])

    def close(self) -> None:
        """Close the ranks' connection; no exchange is possible after it.

        Raises:
            Unreachable: The ranks do not end together.
        """
        with ExchangeScope(self._transport, self.rank):
            self._transport.close()

    def abort(self, code: int) -> None:
        """End this process, and with it the job, whatever the other ranks are waiting for."""
        self._transport.abort(code)

    @property
    def rank_group(self) -> object:
        """The same object for all worlds of this process that join the same ranks."""
        return self._transport.rank_group

    def end(self, status: int) -> None:
        """End this process from any thread, whatever its others wait for."""
        self._transport.end(status)

    def workers_per_host(self) -> int:
        """Return the number of workers on this rank's host. A collective the first time.

        Raises:
            ConfigurationError: Hosts have unequal numbers of workers, or ranks go round the hosts.
        """
        name = int.from_bytes(hashlib.sha256(socket.gethostname().encode()).digest()[:6], "big")
        return self.placement.per_host(self.gather(np.full(self.R, float(name))))

    def ranks_of_block(self, block: int) -> int:
        """Return `Placement.ranks_of_block`, and prepare its averages. All ranks together.

        Raises:
            ConfigurationError: The block does not divide K.
        """
        ranks = self.placement.ranks_of_block(block)
        if not ranks and block not in self._split_blocks:
            self._split_blocks[block] = SplitBlocks(self.placement, block, self.rank)
        self._transport.prepare(ranks)
        return ranks

    def _own_mean(self, x: Rows, keep: bool) -> torch.Tensor:
        """Return what, averaged over all ranks, is the average over all workers, [P].

        With one worker on every rank that is its row, and without `keep` no copy of it.
        """
        if self.placement.even:
            return x.mean(0) if len(x) > 1 else x[0].clone() if keep else x[0]
        return x.mean(0).mul_(len(x) * self.n / self.K)

    def _exchanging(self) -> ExchangeScope:
        """Return the context of this rank's part of an exchange."""
        return ExchangeScope(self._transport, self.rank, self.ledger.transferring())

    def _bill(self, payload: float | np.ndarray, rank_bytes: float, modelled_s: float) -> None:
        """Count an exchange of `rank_bytes` sent by this rank; a lone worker sends nothing."""
        if self.K > 1:
            self.ledger.bill(payload, rank_bytes / self.R, modelled_s)

    def _routes_billed(self, sent: Rows, W: np.ndarray) -> Routes:
        routes, m = self._routes.of(W), _row_bytes(sent)
        modelled_s = self.network.mix_s(W, m) if self.network else 0.0
        self._bill(routes.vectors_sent * m, routes.rows_to_ranks * m, modelled_s)
        return routes

    def _allreduce_s(self, payload: int, workers: int, *, coded: bool = False) -> float:
        net = self.network
        return net.mean_s(workers, payload, workers=self.K, coded=coded) if net else 0.0


def _row_bytes(x: Rows) -> int:
    """Return the bytes of one worker's row."""
    return x.numel() // len(x) * x.element_size()
