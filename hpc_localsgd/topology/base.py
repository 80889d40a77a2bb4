"""What a topology is, the weights of an undirected graph, and the check every W must pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    import networkx as nx

TOLERANCE = 1e-9  # of a row or column sum
ANY_ROWS = ". The algorithm push_sum accepts rows with other sums"


class Topology(ABC):
    """Mixing matrices for any number of workers, as a pure function.

    A topology of your own is a frozen dataclass with `weights`, and `period` if it changes from
    mix to mix, and `check` if it does not take every n. Randomness comes from a seed field, as
    `np.random.default_rng([seed, k])`, never from a generator that remembers.
    """

    @abstractmethod
    def weights(self, n: int, k: int) -> np.ndarray:
        """Return W of the mix k, [n, n] float64, for an n that passed `check`."""

    def matrix(self, n: int, k: int = 0) -> np.ndarray:
        """Return the mixing matrix of the k-th mix.

        Built and checked once, then remembered, so it may be asked for at every step.

        Args:
            n: Workers.
            k: Mixes done so far in the run, from 0. Static topologies ignore it.

        Returns:
            W, [n, n] float64, read-only, doubly stochastic. Worker i becomes sum_j W[i, j] x_j.

        Raises:
            ConfigurationError: (a ValueError) n is not allowed, or W is not doubly stochastic.
        """
        self.check(n)
        return _doubly(self, n, self._place(n, k))

    def push_matrix(self, n: int, k: int = 0) -> np.ndarray:
        """Return the matrix of the k-th mix for an algorithm that needs column sums of one only.

        Like `matrix`, but rows may have any sum: every worker gives away all that it has, and how
        much it receives is up to the others, as in any directed graph.

        Raises:
            ConfigurationError: (a ValueError) n is not allowed, or a column does not sum to one.
        """
        self.check(n)
        return _built(self, n, self._place(n, k))

    def sent(self, n: int, k: int = 0) -> np.ndarray:
        """Return how many neighbours each worker sends to in the k-th mix, [n] integers.

        Counted once, then remembered.

        Args:
            n: Workers.
            k: Mixes done so far in the run, from 0.

        Raises:
            ConfigurationError: As `matrix` does.
        """
        self.check(n)
        return _sent(self, n, self._place(n, k))

    def _place(self, n: int, k: int) -> int:
        period = self.period(n)
        return k if period is None else k % period

    def period(self, n: int) -> int | None:
        """Return the number of mixes after which W repeats: 1 if constant, None if never."""
        del n
        return 1

    def check(self, n: int) -> None:
        """Check that n workers can be arranged like this.

        Raises:
            ConfigurationError: They cannot.
        """
        if n < 1:
            raise ConfigurationError(f"a topology needs at least 1 worker, got {n}")


@lru_cache(maxsize=16)  # one period of `one_peer_exponential` for up to 2^16 workers
def _built(topology: Topology, n: int, k: int) -> np.ndarray:
    W = np.array(topology.weights(n, k), dtype=np.float64)
    validate_columns(W)
    W.flags.writeable = False
    return W


@lru_cache(maxsize=16)
def _doubly(topology: Topology, n: int, k: int) -> np.ndarray:
    W = _built(topology, n, k)
    validate(W)
    return W


@lru_cache(maxsize=64)
def _sent(topology: Topology, n: int, k: int) -> np.ndarray:
    return vectors_sent(_built(topology, n, k))


def validate(W: np.ndarray) -> None:
    """Refuse a matrix that is not doubly stochastic: square, W >= 0, W 1 = 1 and 1^T W = 1^T.

    Args:
        W: The mixing matrix.

    Raises:
        ConfigurationError: (a ValueError) naming the entry, row or column, and what it would do.
    """
    _check_entries(W)
    _sums_to_one(W.sum(axis=1), "row", "worker {i}'s parameters would {verb}", ANY_ROWS)
    validate_columns(W)


def validate_columns(W: np.ndarray) -> None:
    """Refuse a matrix that is not column-stochastic: square, W >= 0 and 1^T W = 1^T.

    Args:
        W: The mixing matrix.

    Raises:
        ConfigurationError: (a ValueError) as `validate` does.
    """
    _check_entries(W)
    _sums_to_one(W.sum(axis=0), "column", "worker {i}'s share of the mean would {verb}")


def _check_entries(W: np.ndarray) -> None:
    if W.ndim != 2 or W.shape[0] != W.shape[1] or not len(W):
        raise ConfigurationError(
            f"a mixing matrix has one row and one column per worker, got shape {W.shape}"
        )
    bad = np.argwhere(~(np.isfinite(W) & (W >= 0)))
    if len(bad):
        i, j = bad[0]
        raise ConfigurationError(
            f"weight [{i}, {j}] of the mixing matrix is {W[i, j]:g}: weights must be finite and "
            "not negative, since a worker becomes a weighted mean of its neighbours"
        )


def _sums_to_one(sums: np.ndarray, what: str, consequence: str, more: str = "") -> None:
    i = int(np.abs(sums - 1).argmax())
    if abs(sums[i] - 1) <= TOLERANCE:
        return
    verb = "shrink" if sums[i] < 1 else "grow"
    raise ConfigurationError(
        f"{what} {i} of the mixing matrix sums to {sums[i]:.10g}, and must sum to 1 within "
        f"{TOLERANCE:g}: {consequence.format(i=i, verb=verb)}, by that factor, at every step. "
        "Give weights with all their digits, or a networkx graph in place of the matrix: "
        f"custom(graph) finds weights that sum to one{more}"
    )


def metropolis(graph: nx.Graph) -> np.ndarray:
    """Return Metropolis weights, symmetric and doubly stochastic on any undirected graph.

        W_ij = 1 / (1 + max(deg_i, deg_j)) on an edge,   W_ii = 1 - sum_{j != i} W_ij

    On a graph where all have d neighbours that is 1 / (d + 1) everywhere. Edge weights, repeated
    edges and self-loops are ignored. Worker i is node i where the nodes are 0..n-1, else the i-th
    node in the order of the graph.

    Source: Xiao, Boyd and Lall, A scheme for robust distributed sensor fusion based on average
    consensus, IPSN 2005.

    Example:
        >>> import networkx as nx
        >>> metropolis(nx.path_graph(3)).round(3)
        array([[0.667, 0.333, 0.   ],
               [0.333, 0.333, 0.333],
               [0.   , 0.333, 0.667]])
    """
    edges = linked(graph)
    degree = edges.sum(axis=1)
    W = np.where(edges, 1 / (1 + np.maximum.outer(degree, degree)), 0.0)
    np.fill_diagonal(W, 1 - W.sum(axis=1))
    return W


def linked(graph: nx.Graph) -> np.ndarray:
    """Return whether there is an edge from worker i to worker j, bool [n, n], none to itself."""
    import networkx as nx

    order = range(len(graph)) if set(graph) == set(range(len(graph))) else list(graph)
    edges = nx.to_numpy_array(graph, nodelist=order, weight=None) > 0
    np.fill_diagonal(edges, False)
    return edges


def neighbours(W: np.ndarray, k: int) -> list[int]:
    """Return the workers that worker k receives from; those of `W.T` are those it sends to."""
    return [int(j) for j in np.flatnonzero(W[k]) if j != k]


def vectors_sent(W: np.ndarray) -> np.ndarray:
    """Return how many neighbours each worker sends its parameters to in one mix, [n] integers."""
    return np.count_nonzero(W, axis=0) - (np.diag(W) != 0)


def nearest(n: int, allowed: Callable[[int], bool]) -> str:
    """Return the allowed numbers of workers next to n, from 2 to 2 n + 2, as "8 or 16"."""
    below = next((m for m in range(n - 1, 1, -1) if allowed(m)), None)
    above = next((m for m in range(n + 1, 2 * n + 3) if allowed(m)), None)
    return " or ".join(str(m) for m in (below, above) if m is not None)


def refuse_below(topology: Topology, **least: int) -> None:
    """Refuse a topology whose counts are too small.

    Args:
        topology: Has attributes of these names.
        least: Name -> the least it may be, 0 or 1.

    Raises:
        ConfigurationError: (a ValueError) one is less; says which of them may be what.
    """
    if any(getattr(topology, name) < number for name, number in least.items()):
        words = ("must not be negative", "must be at least 1")
        said = " and ".join(f"{name} {words[number]}" for name, number in least.items())
        raise ConfigurationError(f"{topology!r}: {said}")
