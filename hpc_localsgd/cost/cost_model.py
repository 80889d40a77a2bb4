"""Predicted seconds of an exchange: the alpha-beta-gamma model of a network.

    seconds = messages * alpha + bytes on the wire * beta + bytes of the vector * gamma

A named network has one alpha and one beta for every exchange and no gamma; a measured one has those
of each kind of exchange. Used for the simulated world, whose clock is modelled, and for planning.
A prediction is always labelled as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hpc_localsgd.cost.contention import Load, Shared, allreduce_loads, gather_load, mix_load
from hpc_localsgd.topology.base import vectors_sent


@dataclass(frozen=True)
class Piece:
    """What holds for vectors up to a size: libraries send short and long messages differently.

    Attributes:
        up_to_bytes: The largest vector; infinite for the last piece.
        alpha_s: Seconds of each message, whatever its length.
        beta_s: Seconds of each byte on the wire.
    """

    up_to_bytes: float
    alpha_s: float
    beta_s: float


@dataclass(frozen=True)
class Cost:
    """What one kind of exchange takes.

    Attributes:
        pieces: By size, the last one without an end.
        gamma_s: Seconds a rank computes for each byte of the vector: adds, encodes.
        off: Relative error of the fit, root mean square; 0 where it is not known.
    """

    pieces: tuple[Piece, ...]
    gamma_s: float = 0.0
    off: float = field(default=0.0, compare=False)

    def seconds(self, size_bytes: float, messages: float, wire_bytes: float) -> float:
        """Predict the seconds of an exchange of vectors of a size."""
        piece = next(p for p in self.pieces if size_bytes <= p.up_to_bytes)
        own = size_bytes * self.gamma_s
        return messages * piece.alpha_s + wire_bytes * piece.beta_s + own

    def dearer(self, factor: float) -> Cost:
        """Return the cost of a model of which every byte stands for `factor` bytes."""
        pieces = [Piece(p.up_to_bytes / factor, p.alpha_s, p.beta_s * factor) for p in self.pieces]
        return Cost(tuple(pieces), self.gamma_s * factor, self.off)


@dataclass(frozen=True)
class Network:
    """One link as every worker sees it.

    Attributes:
        name: What it is called in plans and files.
        latency_s: Seconds a message of no length takes (alpha).
        bytes_per_s: What a worker can send in a second (1 / beta).
        costs: What was measured: kind of exchange -> its cost. `mean`, `mean of 4` for blocks of
            four workers, `compressed mean`, `mix`, `gather`; the others follow from the two above.
        workers_per_host: Who share the cable that was measured; 1 where each has its own.
        shared: Links that messages at once wait for each other on, beside the workers' own.
        allreduce: How an average is made that was not measured: `ring` or `halving`.
    """

    name: str
    latency_s: float
    bytes_per_s: float
    costs: Mapping[str, Cost] = field(default_factory=dict, hash=False)
    workers_per_host: int = 1
    shared: Shared = Shared()
    allreduce: str = "ring"

    def seconds(self, messages: float, wire_bytes: float) -> float:
        """Return the seconds a worker needs to send `wire_bytes`, in so many messages."""
        return messages * self.latency_s + wire_bytes / self.bytes_per_s

    def of(self, kind: str, size_bytes: float, messages: float, wire_bytes: float) -> float:
        """Predict seconds of a kind of exchange; by the link if it was not measured."""
        if kind in self.costs and messages:
            return self.costs[kind].seconds(size_bytes, messages, wire_bytes)
        return self.seconds(messages, wire_bytes)

    def mean_s(self, n: int, payload_bytes: int, *, workers: int = 0, coded: bool = False) -> float:
        """Predict the seconds of an average over n workers.

        Args:
            n: That take part in one average.
            payload_bytes: What each sends at least: the vector, or its code.
            workers: K, where those of a block average among themselves.
            coded: Whether it is decoded and coded again on the way.
        """
        kind = "compressed mean" if coded else f"mean of {n}" if 1 < n < workers else "mean"
        wire, messages = allreduce_wire_bytes(n, payload_bytes), allreduce_messages(n)
        if self.shared.unlimited and self.allreduce == "ring":
            return self.of(kind, payload_bytes, messages, wire)
        loads = allreduce_loads(self.allreduce, n, max(workers, n), self.shared.workers)
        if kind not in self.costs:
            messages = sum(load.times for load in loads)
        return self._crowded_s(kind, payload_bytes, messages, wire, loads)

    def mix_s(self, W: np.ndarray, nbytes: int) -> float:
        """Predict the seconds until every worker has the vectors of its neighbours.

        Args:
            W: [K, K], the weights of the mix.
            nbytes: Of a vector.
        """
        messages = int(vectors_sent(W).max(initial=0))
        vectors = vectors_on_a_cable(W, self.workers_per_host)
        if self.shared.unlimited:
            return self.of("mix", nbytes, messages, vectors * nbytes)
        loads = (mix_load(W, self.shared.workers, vectors),)
        return self._crowded_s("mix", nbytes, messages, vectors * nbytes, loads)

    def gather_s(self, n: int, nbytes: int) -> float:
        """Predict the seconds until each of n workers has the bytes of all."""
        if self.shared.unlimited:
            return self.of("gather", nbytes, n - 1, (n - 1) * nbytes)
        loads = (gather_load(n, self.shared.workers),)
        return self._crowded_s("gather", nbytes, n - 1, (n - 1) * nbytes, loads)

    def _crowded_s(
        self, kind: str, nbytes: float, messages: int, wire_bytes: float, loads: Sequence[Load]
    ) -> float:
        """Predict the seconds of an exchange whose messages share links.

        What was measured has the workers' own cables in it; shared links are a lower bound then.
        """
        measured = kind in self.costs
        own_s = 0.0 if measured else 1 / self.bytes_per_s  # of a byte on a worker's cable
        crowded_s = sum(load.seconds(nbytes, own_s, self.shared) for load in loads)
        if measured:
            return max(self.of(kind, nbytes, messages, wire_bytes), crowded_s)
        return messages * self.latency_s + crowded_s

    def dearer(self, factor: float) -> Network:
        """Return the network as seen by a model of which every byte stands for `factor` bytes."""
        costs = {kind: cost.dearer(factor) for kind, cost in self.costs.items()}
        rate, shared = self.bytes_per_s / factor, self.shared.dearer(factor)
        return replace(self, bytes_per_s=rate, costs=costs, shared=shared)


NETWORKS = {
    network.name: network
    for network in (
        Network("1GbE", 50e-6, 0.117e9),
        Network("10GbE", 20e-6, 1.17e9),
        Network("100GbE", 5e-6, 11.7e9),
        Network("hdr200", 2e-6, 23e9),
        Network("nvlink", 3e-6, 200e9),
    )
}


def vectors_on_a_cable(W: np.ndarray, per_host: int = 1) -> int:
    """Return how many vectors the busiest host sends to others in one mix.

    Args:
        W: [K, K], the weights of the mix.
        per_host: Workers of a host, one after the other; what they send each other is free.
    """
    host = np.arange(len(W)) // per_host
    across = (W != 0) & (host[:, None] != host[None, :])
    return int(np.bincount(host, weights=across.sum(0)).max())


def allreduce_messages(n: int) -> int:
    """Return how many messages a rank sends, one by one, in a ring all-reduce over n ranks."""
    return 2 * (n - 1)


def allreduce_wire_bytes(n: int, payload_bytes: int) -> int:
    """Return the bytes a rank sends in a ring all-reduce, the minimum: 2 (n - 1) / n payloads."""
    return 2 * (n - 1) * payload_bytes // n
