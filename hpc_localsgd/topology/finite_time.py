"""Graphs that change from mix to mix and are the exact average after a few, for any number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, zip_longest
from typing import TypeAlias

import numpy as np

from hpc_localsgd.topology.base import Topology, refuse_below

Workers: TypeAlias = Sequence[int]
Mix: TypeAlias = "list[tuple[Workers, np.ndarray]]"  # groups that meet, and their weights


@dataclass(frozen=True)
class base_graph(Topology):
    """Base-(k+1) graph: exact average of any number of workers, each with k = `degree` neighbours.

        n = a_1 (k+1)^p_1 + a_2 (k+1)^p_2 + ...    parts V_1, V_2, ... of so many workers
        1. every part averages itself, in groups of up to k + 1
        2. V_1 meets all later parts, V_2 all after it, ...: those come to their exact mean
        3. the blocks of (k+1)^p_l workers of V_l average themselves once more

    A factor of n that is a product of numbers up to k + 1 is left out first and averaged over at
    the end, where that takes fewer mixes. All mixing matrices are symmetric.

    Source: Takezawa et al., Beyond exponential graph: communication-efficient topologies for
    decentralized learning via finite-time convergence, arXiv:2305.11420.
    Sends: at most k vectors per worker and mix.
    Gap: 1 over a period of at most 2 log_(k+1) n + 2 mixes, for every n (see `gap`). With k = 1
    and n = 2^p they are p mixes of pairs.

    Example:
        >>> topology = base_graph()
        >>> [topology.period(n) for n in (4, 5, 6, 7, 8)]
        [2, 5, 4, 5, 3]
        >>> X = np.array([0.0, 1.0, 2.0, 3.0, 9.0])
        >>> for k in range(5):
        ...     X = topology.matrix(5, k) @ X
        >>> X.round(12)  # five mixes of five workers in pairs are the exact average
        array([3., 3., 3., 3., 3.])

    Attributes:
        degree: k, the most neighbours a worker has in a mix.
    """

    degree: int = 1

    def __post_init__(self) -> None:
        """Refuse a degree below 1."""
        refuse_below(self, degree=1)

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return the matrix of the k-th mix of the period."""
        W = np.eye(n)
        for workers, inner in _mixes(n, self.degree + 1)[k]:
            W[np.ix_(workers, workers)] = inner
        return W

    def period(self, n: int) -> int:
        """Return the mixes that are the exact average, at least 1."""
        return len(_mixes(n, self.degree + 1))


@lru_cache(maxsize=16)
def _mixes(n: int, base: int) -> list[Mix]:
    """Return the mixes of n workers in groups of up to `base`; the shorter of two ways."""
    smooth, rest = _smooth_part(n, base)
    whole = _simple(range(n), base)
    copies = (_simple(range(i * rest, (i + 1) * rest), base) for i in range(smooth))
    across = (_cliques(range(i, n, rest), base) for i in range(rest))
    split = [*_together(copies), *_together(across)]
    return min(split, whole, key=len) or [[]]


def _simple(workers: Workers, base: int) -> list[Mix]:
    """Return mixes to the exact average for any number of workers."""
    parts = list(_parts(workers, base))
    if len(parts) < 2:
        return _cliques(workers, base)
    first = _together(_cliques(list(chain(*blocks)), base) for blocks in parts)
    after = []
    for number, blocks in enumerate(parts):
        idle: list[Mix] = [[]] * number
        later = [worker for part in parts[number + 1 :] for worker in chain(*part)]
        meet = [_meeting(blocks, later)] if later else []
        after.append(idle + meet + (_together(_cliques(b, base) for b in blocks) if later else []))
    return [*first, *_together(after)]


def _parts(workers: Workers, base: int) -> Iterator[list[Workers]]:
    """Yield the parts, largest first, each as its blocks of base^p workers."""
    size, begin = 1, 0
    while size * base <= len(workers):
        size *= base
    while size:
        blocks = (len(workers) - begin) // size
        if blocks:
            starts = range(begin, begin + blocks * size, size)
            yield [workers[i : i + size] for i in starts]
            begin += blocks * size
        size //= base


def _meeting(blocks: Sequence[Workers], later: Workers) -> Mix:
    """Return the mix in which each of the later workers meets one worker of every block.

    It then holds the mean over all of them, and so does every block on average. Its own weight is
    the share of its part among the workers.
    """
    size, many = len(blocks[0]), len(blocks)
    share = size / (many * size + len(later))  # of one block
    inner = np.diag([1 - share] * many + [1 - many * share])
    inner[-1, :-1] = inner[:-1, -1] = share
    return [([*(block[i] for block in blocks), one], inner) for i, one in enumerate(later)]


def _cliques(workers: Workers, base: int) -> list[Mix]:
    """Return mixes in complete groups to the exact average: a cube with sides up to `base`."""
    mixes: list[Mix] = []
    numbers, stride = np.arange(len(workers)), 1
    for side in _sides(len(workers), base):
        groups = numbers.reshape(-1, side, stride).swapaxes(1, 2).reshape(-1, side)
        inner = np.full((side, side), 1 / side)
        mixes.append([([workers[i] for i in group], inner) for group in groups])
        stride *= side
    return mixes


def _sides(n: int, base: int) -> list[int]:
    """Return as few factors of n as possible, each at most `base`, which all of n must have."""
    if n == 1:
        return []
    ways = [[d, *_sides(n // d, base)] for d in range(min(n, base), 1, -1) if _fits(n, d, base)]
    return min(ways, key=len)


def _fits(n: int, side: int, base: int) -> bool:
    return n % side == 0 and _smooth_part(n // side, base)[1] == 1


def _smooth_part(n: int, base: int) -> tuple[int, int]:
    """Return n = smooth x rest: the first a product of numbers up to `base`, the rest of none."""
    rest = n
    for factor in range(2, base + 1):
        while rest % factor == 0:
            rest //= factor
    return n // rest, rest


def _together(several: Iterable[list[Mix]]) -> list[Mix]:
    """Return the mixes of groups of workers that have nothing to do with each other, at once."""
    at_once = zip_longest(*several, fillvalue=[])
    return [list(chain(*mixes)) for mixes in at_once]
