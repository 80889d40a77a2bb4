"""Links that several messages share at once: trunks of racks and hosts, and the core between them.

A worker's own cable carries one message at a time. What leaves a rack goes over its trunk, which
all workers of the rack share, and what leaves any rack over the core. A step of an exchange, in
which all workers send at once, takes as long as on the busiest of these links:

    seconds = alpha + bytes of a message * max_links (messages on the link / rate of the link)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hpc_localsgd.errors import ConfigurationError


@dataclass(frozen=True)
class Shared:
    """Links that workers share, each of this rate in either direction.

    Attributes:
        workers: Behind one trunk, one after the other; 1 where there are no trunks.
        trunk_bytes_per_s: Of a trunk.
        core_bytes_per_s: Of all that leaves a trunk together, or a worker where there is none.
    """

    workers: int = 1
    trunk_bytes_per_s: float = math.inf
    core_bytes_per_s: float = math.inf

    @property
    def unlimited(self) -> bool:
        """Whether no message ever waits for another one."""
        return math.isinf(self.trunk_bytes_per_s) and math.isinf(self.core_bytes_per_s)

    def __str__(self) -> str:
        """Say what is shared, for a reader."""
        trunk = f"{self.trunk_bytes_per_s / 1e9:g} GB/s a trunk of {self.workers} workers"
        core = f"{self.core_bytes_per_s / 1e9:g} GB/s in the core"
        rates = {trunk: self.trunk_bytes_per_s, core: self.core_bytes_per_s}
        return ", ".join(words for words, rate in rates.items() if not math.isinf(rate))

    def dearer(self, factor: float) -> Shared:
        """Return the links as seen by a model of which every byte stands for `factor` bytes."""
        trunk, core = self.trunk_bytes_per_s / factor, self.core_bytes_per_s / factor
        return Shared(self.workers, trunk, core)


@dataclass(frozen=True)
class Load:
    """Steps of an exchange that are alike: all workers send at once, so many times in a row.

    Attributes:
        times: How many steps.
        share: Of the vector in each message.
        on_trunk: Messages at once on the busiest trunk, in its busier direction.
        on_core: Messages at once on the core.
        own: Messages at once on a worker's cable.
    """

    times: int
    share: float
    on_trunk: int
    on_core: int
    own: float = 1.0

    def seconds(self, nbytes: float, own_s: float, shared: Shared) -> float:
        """Return the seconds of these steps, without latency.

        Args:
            nbytes: Of the vector.
            own_s: Seconds of a byte on a worker's own cable.
            shared: The links beyond it.
        """
        trunk_s = self.on_trunk / shared.trunk_bytes_per_s
        core_s = self.on_core / shared.core_bytes_per_s
        return self.times * self.share * nbytes * max(self.own * own_s, trunk_s, core_s)


def load(times: int, share: float, to: np.ndarray, per_trunk: int) -> Load:
    """Count the messages on shared links.

    Args:
        times: Steps like this one.
        share: Of the vector in each message.
        to: ``[K]`` whom each worker sends to; itself where it sends nothing.
        per_trunk: Workers behind a trunk.
    """
    out, into = np.arange(len(to)) // per_trunk, to // per_trunk
    across = out != into
    return Load(times, share, _most(out[across], into[across]), int(across.sum()))


def mix_load(W: np.ndarray, per_trunk: int, own: float) -> Load:
    """Count the vectors on shared links when every worker sends to all its neighbours at once.

    Args:
        W: [K, K], the weights of the mix.
        per_trunk: Workers behind a trunk.
        own: Vectors on the busiest worker's cable.
    """
    into, out = (ends // per_trunk for ends in np.nonzero(W))
    across = out != into
    return Load(1, 1.0, _most(out[across], into[across]), int(across.sum()), own)


def _most(out: np.ndarray, into: np.ndarray) -> int:
    """Return the messages of the trunk that most leave or most enter."""
    return max(int(np.bincount(ends).max(initial=0)) for ends in (out, into))


def ring(n: int, K: int) -> Iterator[tuple[int, float, np.ndarray]]:
    """Yield the one kind of step of a ring all-reduce in blocks of n: times, share, to whom."""
    k = np.arange(K)
    yield 2 * (n - 1), 1 / n, k // n * n + (k + 1) % n


def halving(n: int, K: int) -> Iterator[tuple[int, float, np.ndarray]]:
    """Yield the steps of recursive halving and doubling in blocks of n.

    Workers 1, 2, 4, ... places apart swap halves, quarters, ... of the vector, and the same back:
    what goes far is short, as in MPICH. Where n is not a power of two, those above it hand their
    vector to a neighbour first.

    Source: Thakur, Rabenseifner and Gropp, Optimization of collective communication operations
    in MPICH, IJHPCA 19 (2005); the algorithm is Rabenseifner's.
    """
    levels = n.bit_length() - 1
    extra = n - 2**levels
    members = np.array([*range(0, 2 * extra, 2), *range(2 * extra, n)])
    place = np.arange(2**levels)
    starts = np.arange(0, K, n)[:, None]
    if extra:
        to = np.arange(K)
        to[starts + np.arange(1, 2 * extra, 2)] = starts + np.arange(0, 2 * extra, 2)
        yield 2, 1.0, to
    for level in range(1, levels + 1):
        to = np.arange(K)
        to[starts + members] = starts + members[place ^ 2 ** (level - 1)]
        yield 2, 2.0**-level, to


ALLREDUCE: dict[str, Callable[[int, int], Iterator[tuple[int, float, np.ndarray]]]] = {
    made.__name__: made for made in (ring, halving)
}


@lru_cache(maxsize=256)
def allreduce_loads(algorithm: str, n: int, K: int, per_trunk: int) -> tuple[Load, ...]:
    """Return the steps of an average over blocks of n of the K workers, all blocks at once.

    Args:
        algorithm: `ring` or `halving`.
        n: Workers of a block; divides K.
        K: Workers.
        per_trunk: Workers behind a trunk.

    Raises:
        ConfigurationError: There is no such algorithm.
    """
    if algorithm not in ALLREDUCE:
        raise ConfigurationError(f"no all-reduce {algorithm!r}: type one of {', '.join(ALLREDUCE)}")
    if n < 2:
        return ()
    return tuple(
        load(times, share, to, per_trunk) for times, share, to in ALLREDUCE[algorithm](n, K)
    )


@lru_cache(maxsize=256)
def gather_load(n: int, per_trunk: int) -> Load:
    """Return the steps of an all-gather of n workers, each handing on what came, as on a ring."""
    return load(n - 1, 1.0, (np.arange(n) + 1) % n, per_trunk)
