"""Directed graphs: the exponential ones, all neighbours or one at a time; and a random one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_localsgd.topology.base import Topology, refuse_below


@dataclass(frozen=True)
class exponential(Topology):
    """Static exponential graph: worker i hears those 1, 2, 4, 8, ... places further on.

        0 <- 1, 2, 4, ...   W_ij = 1 / (1 + ceil(log2 n)) for j = i and j = i + 2^m mod n, 2^m < n

    Directed: W is doubly stochastic, but not symmetric for n > 3, so it is not for D2.

    Source: Assran et al., Stochastic gradient push, arXiv:1811.10792; Ying et al., Exponential
    graph is provably efficient for decentralized deep training, arXiv:2110.13363.
    Sends: ceil(log2 n) vectors per worker and mix.
    Gap: 2 / (1 + ceil(log2 n)) for even n, and not less for odd n.

    Example:
        >>> from hpc_localsgd.topology import gap, neighbours
        >>> neighbours(exponential().matrix(8), 0)
        [1, 2, 4]
        >>> round(gap(exponential(), 8), 3)
        0.5
    """

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return a circulant matrix with equal weights."""
        del k
        offsets = [0, *(2**m for m in range((n - 1).bit_length()))]
        return np.mean([np.roll(np.eye(n), offset, axis=1) for offset in offsets], axis=0)


@dataclass(frozen=True)
class one_peer_exponential(Topology):
    """The exponential graph, one neighbour at a mix: 1 place further on, then 2, then 4, ...

        mix 0: i <- i + 1     mix 1: i <- i + 2     mix 2: i <- i + 4     then again from 1

        W^(k)_ii = W^(k)_ij = 1/2,  j = i + 2^(k mod p) mod n,  p = ceil(log2 n)

    If n = 2^p, any p mixes in a row are the exact average. Other n are allowed: W is doubly
    stochastic and the workers agree in the end, but no finite number of mixes is exact.

    Source: Ying et al., Exponential graph is provably efficient for decentralized deep training,
    arXiv:2110.13363.
    Sends: 1 vector per worker and mix.
    Gap: 1 over a period if n = 2^p (see `gap`).

    Example:
        >>> from hpc_localsgd.topology import neighbours
        >>> [neighbours(one_peer_exponential().matrix(8, k), 0) for k in range(4)]
        [[1], [2], [4], [1]]
        >>> X = np.arange(4.0)
        >>> for k in range(2):
        ...     X = one_peer_exponential().matrix(4, k) @ X
        >>> X  # two mixes of 4 workers are the exact average
        array([1.5, 1.5, 1.5, 1.5])
    """

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return half the identity, half the worker 2^k places further on."""
        return (np.eye(n) + np.roll(np.eye(n), 2**k, axis=1)) / 2

    def period(self, n: int) -> int:
        """Return ceil(log2 n), at least 1."""
        return max(1, (n - 1).bit_length())


@dataclass(frozen=True)
class random_directed(Topology):
    """A random directed graph, drawn once: every worker sends to `degree` others, for push-sum.

        W_ij = 1 / (degree + 1) for j = i and where j sends to i

    One of those it sends to is its next on a random circle through all workers, so that the graph
    is strongly connected. How many a worker hears is random: columns of W sum to one, rows do not.
    Where n - 1 <= degree it is the complete graph.

    Source: one of the graphs that Assran et al., Stochastic gradient push, arXiv:1811.10792, allow.
    Sends: `degree` vectors per worker and mix.
    Gap: of W with the eigenvalue 1 of its own mean taken out (see `spectral_gap`).

    Example:
        >>> W = random_directed(degree=2).push_matrix(5)
        >>> (3 * W).round().astype(int)
        array([[1, 0, 1, 0, 1],
               [0, 1, 0, 1, 1],
               [1, 1, 1, 0, 0],
               [1, 1, 1, 1, 0],
               [0, 0, 0, 1, 1]])
        >>> W.sum(axis=0).round(9)
        array([1., 1., 1., 1., 1.])

    Attributes:
        degree: Others that a worker sends to.
        seed: Same seed, same graph.
    """

    degree: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a negative seed and a degree below 1."""
        refuse_below(self, degree=1, seed=0)

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return a matrix with equal weights in a column."""
        del k
        rng = np.random.default_rng([self.seed, n])
        W, order = np.eye(n), rng.permutation(n)
        for j, following in zip(order, np.roll(order, -1), strict=True):
            others = np.setdiff1d(np.arange(n), [j, following])
            W[following, j] = 1
            W[rng.choice(others, min(self.degree - 1, len(others)), replace=False), j] = 1
        return W / W.sum(axis=0)
