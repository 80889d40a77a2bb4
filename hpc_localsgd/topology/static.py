"""The undirected graphs with a name, the same at every mix, with Metropolis weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology.base import Topology, metropolis, nearest


@dataclass(frozen=True)
class complete(Topology):
    """Complete graph: every worker mixes with every other, the exact average at once.

        W_ij = 1/n

    Sends: n - 1 vectors per worker and mix.
    Gap: 1.

    Example:
        >>> complete().matrix(4)[0]
        array([0.25, 0.25, 0.25, 0.25])
    """

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return 1/n everywhere."""
        del k
        return np.full((n, n), 1 / n)


@dataclass(frozen=True)
class ring(Topology):
    """Two neighbours on a circle.

        .-0-1-2-3-4-.       W_ii = W_i,i-1 = W_i,i+1 = 1/3   (indices mod n)
        '-----------'

    With 2 workers the neighbours are one and the same and the weights 1/2, 1/2 (weights of 1/3
    would sum to 2/3, as in a published code); with 3 it is the complete graph.

    Source: Lian et al., Can decentralized algorithms outperform centralized algorithms?,
    arXiv:1705.09056; weights as in the code of Zhu et al., arXiv:2306.02913.
    Sends: 2 vectors per worker and mix (1 if n = 2).
    Gap: 1 - max_{j != 0} |1 + 2 cos(2 pi j / n)| / 3, about 4 pi^2 / (3 n^2): 0.195 for 8 workers,
    0.0128 for 32. The smallest eigenvalue for even n is -1/3, see `lazy`.

    Example:
        >>> ring().matrix(4).round(3)
        array([[0.333, 0.333, 0.   , 0.333],
               [0.333, 0.333, 0.333, 0.   ],
               [0.   , 0.333, 0.333, 0.333],
               [0.333, 0.   , 0.333, 0.333]])
        >>> from hpc_localsgd.topology import gap
        >>> round(gap(ring(), 8), 3), round(gap(ring(), 32), 4)
        (0.195, 0.0128)
    """

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return Metropolis weights of the cycle."""
        del k
        import networkx as nx

        return metropolis(nx.cycle_graph(n))


@dataclass(frozen=True)
class torus(Topology):
    """Four neighbours on a grid whose sides are joined, a x b = n as close to square as n allows.

        | | |
       -0-1-2-              W_ii = 1/5,  W_ij = 1/5 to the left, to the right, above, below
       -3-4-5-
        | | |

    Along a side of 2 the two neighbours are one worker, along a side of 1 the worker itself. Such
    a neighbour counts once, or not at all, and the d different ones left weigh 1/(d + 1): 1/4 on
    2 x b, 1/3 on 2 x 2. So 1 x n is the ring, which is what a prime n gives. (A published code
    divides by 5 whatever the sides, so its parameters shrink at every step for n = 4, 6, 8.)

    Source: Koloskova et al., CHOCO-SGD, arXiv:1902.00340, for the weights.
    Sends: 4 vectors per worker and mix.
    Gap: 0.4 for 4 x 4; where both sides are at least 3 and b the longer,
    at most 2 (1 - cos(2 pi / b)) / 5, about 4 pi^2 / (5 b^2).

    Example:
        >>> torus().matrix(9)[0].round(3)  # 3 x 3
        array([0.2, 0.2, 0.2, 0.2, 0. , 0. , 0.2, 0. , 0. ])
        >>> from hpc_localsgd.topology import gap
        >>> round(gap(torus(), 16), 3)
        0.4
    """

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return Metropolis weights of the periodic grid."""
        del k
        import networkx as nx

        return metropolis(nx.grid_2d_graph(*_sides(n), periodic=True))


@dataclass(frozen=True)
class grid(Topology):
    """Neighbours on a flat grid, a x b = n as close to square as n allows, rows first.

        0-1-2
        | | |               W_ij = 1 / (1 + max(deg_i, deg_j)),  W_ii = 1 - the rest of its row
        3-4-5

    A prime n gives 1 x n, a line.

    Source: weights and shape as "meshgrid" in the code of Zhu et al., arXiv:2306.02913.
    Sends: 2 to 4 vectors per worker and mix (corners, sides, inside).
    Gap: 0.667 for 2 x 2, 0.233 for 3 x 3, 0.131 for 4 x 4.

    Example:
        >>> grid().matrix(4).round(3)  # 2 x 2
        array([[0.333, 0.333, 0.333, 0.   ],
               [0.333, 0.333, 0.   , 0.333],
               [0.333, 0.   , 0.333, 0.333],
               [0.   , 0.333, 0.333, 0.333]])
        >>> from hpc_localsgd.topology import gap
        >>> round(gap(grid(), 9), 3)
        0.233
    """

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return Metropolis weights of the grid."""
        del k
        import networkx as nx

        return metropolis(nx.grid_2d_graph(*_sides(n)))


@dataclass(frozen=True)
class star(Topology):
    """Star: every worker mixes with worker 0 only.

            2
            |
        1 - 0 - 3           W_0j = W_j0 = W_00 = 1/n,  W_jj = 1 - 1/n
            |
            4

    Source: code of Zhu et al., arXiv:2306.02913. These are its Metropolis weights.
    Sends: 1 vector per worker and mix, worker 0 sends n - 1.
    Gap: 1/n for n > 2: the slowest here, for all its traffic at the centre.

    Example:
        >>> star().matrix(3).round(3)
        array([[0.333, 0.333, 0.333],
               [0.333, 0.667, 0.   ],
               [0.333, 0.   , 0.667]])
        >>> from hpc_localsgd.topology import gap
        >>> round(gap(star(), 10), 3)
        0.1
    """

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return Metropolis weights of the star."""
        del k
        import networkx as nx

        return metropolis(nx.star_graph(n - 1))


@dataclass(frozen=True)
class hypercube(Topology):
    """n = 2^p corners of a p-dimensional cube: neighbours differ in one bit of their number.

        010--011
         |    |             W_ii = W_ij = 1 / (p + 1)
        000--001

    Sends: p = log2 n vectors per worker and mix.
    Gap: 2 / (p + 1): that of `exponential`, with a symmetric W.

    Example:
        >>> from hpc_localsgd.topology import gap, neighbours
        >>> neighbours(hypercube().matrix(8), 0)
        [1, 2, 4]
        >>> round(gap(hypercube(), 8), 3)
        0.5
    """

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return Metropolis weights of the cube."""
        del k
        import networkx as nx

        return metropolis(nx.hypercube_graph(n.bit_length() - 1)) if n > 1 else np.ones((1, 1))

    def check(self, n: int) -> None:
        """Check that n is a power of two.

        Raises:
            ConfigurationError: It is not; says which numbers are.
        """
        super().check(n)
        if not _power_of_two(n):
            raise ConfigurationError(
                f"hypercube needs a power of two workers, got {n}: use "
                f"{nearest(n, _power_of_two)} workers, or the topology exponential, which has as "
                "many neighbours and takes any number"
            )


def _power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def _sides(n: int) -> tuple[int, int]:
    """Return the factors a <= b of n that are closest to each other."""
    a = next(a for a in range(isqrt(n), 0, -1) if n % a == 0)
    return a, n // a
