"""Random topologies: pairs drawn again at each mix, and a random graph drawn once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology.base import Topology, metropolis, nearest, refuse_below


@dataclass(frozen=True)
class random_pairs(Topology):
    """A random perfect matching, drawn again at each mix; both of a pair take their mean.

        0-3  1-6  2-7  4-5      W^(k)_ii = W^(k)_ij = 1/2 for a pair (i, j)

    With an odd number of workers one of them, at random, stays alone: W_ii = 1.

    Source: Boyd et al., Randomized gossip algorithms, IEEE Trans. Inf. Theory 2006.
    Sends: 1 vector per worker and mix (none by the one that stays alone).
    Gap: 1 - sqrt(rho) with E ||W x||^2 = rho ||x||^2 for all x of mean zero:
    rho = (n - 2) / (2 (n - 1)) for even n, 1/2 for odd n > 1.

    Example:
        >>> random_pairs(seed=0).matrix(4, k=0)
        array([[0.5, 0. , 0.5, 0. ],
               [0. , 0.5, 0. , 0.5],
               [0.5, 0. , 0.5, 0. ],
               [0. , 0.5, 0. , 0.5]])
        >>> from hpc_localsgd.topology import gap
        >>> round(gap(random_pairs(), 4), 2)  # 1 - sqrt(1/3), estimated
        0.42

    Attributes:
        seed: Same seed, same pairs at every mix, on every rank.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a negative seed."""
        refuse_below(self, seed=0)

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return pairs from a random order of the workers: the first two, the next two, ..."""
        order = np.random.default_rng([self.seed, k]).permutation(n)
        left, right = order[: n // 2 * 2].reshape(-1, 2).T
        W = np.eye(n)
        W[left, left] = W[right, right] = W[left, right] = W[right, left] = 0.5
        return W

    def period(self, n: int) -> int | None:
        """Return None: never repeats."""
        del n
        return None


@dataclass(frozen=True)
class random_regular(Topology):
    """A random connected graph, drawn once, in which every worker has `degree` neighbours.

        W_ii = W_ij = 1 / (degree + 1)

    Source: networkx.random_regular_graph (Kim and Vu, STOC 2003), drawn again until connected.
    Sends: `degree` vectors per worker and mix.
    Gap: with many workers about (d - 2 sqrt(d - 1)) / (d + 1), whatever their number (0.107 for
    d = 4): for the price of a torus, without its decay in n.

    Example:
        >>> W = random_regular(degree=2, seed=1).matrix(6)
        >>> W[0].round(3)
        array([0.333, 0.333, 0.   , 0.   , 0.333, 0.   ])
        >>> bool((W == W.T).all())
        True

    Attributes:
        degree: Neighbours of each worker. n x degree must be even, and degree < n.
        seed: Same seed, same graph.
    """

    degree: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a negative seed and a degree below 1."""
        refuse_below(self, degree=1, seed=0)

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return Metropolis weights of the first connected graph drawn."""
        del k
        import networkx as nx

        if n == 1:
            return np.ones((1, 1))
        rng = np.random.default_rng([self.seed, n])
        while True:
            graph = nx.random_regular_graph(self.degree, n, seed=int(rng.integers(2**32)))
            if nx.is_connected(graph):
                return metropolis(graph)

    def check(self, n: int) -> None:
        """Refuse an n for which no connected graph of this degree exists.

        Raises:
            ConfigurationError: There is none; says which n or degree there is one for.
        """
        super().check(n)
        if n > 1 and not self._exists(n):
            raise ConfigurationError(
                f"no connected graph of {n} workers gives each of them {self.degree} neighbours: "
                "random_regular needs workers > degree, workers x degree even, and degree 2 or "
                f"more for more than 2 workers. Use "
                f"{nearest(n, self._exists) or f'more than {self.degree}'} workers, or "
                f"random_regular(degree={_nearest_degree(n, self.degree)}) for {n}"
            )

    def _exists(self, n: int) -> bool:
        return _regular_exists(n, self.degree)


def _regular_exists(n: int, degree: int) -> bool:
    return degree < n and n * degree % 2 == 0 and (degree > 1 or n == 2)


def _nearest_degree(n: int, degree: int) -> int:
    possible = [d for d in range(1, n) if _regular_exists(n, d)]
    return min(possible, key=lambda d: abs(d - degree))
