"""EquiTopo: random shifts, the same for all workers, with a gap that hardly depends on n.

The shift by u is the graph in which every worker hears the one u places further on. Static graphs
take several shifts, drawn once; the one-peer graphs one at a time, drawn again at each mix.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np

from hpc_localsgd.topology.base import Topology, refuse_below


@dataclass(frozen=True)
class equi_static(Topology):
    """EquiStatic: `shifts` random shifts, drawn once; about log2 n of them are enough.

        W = I / n + (1 - 1/n) mean_m S(u_m)     S(u)_ij = 1 for j = i + u mod n
        undirected: (W + W^T) / 2

    Where n - 1 <= shifts it is the complete graph.

    Source: Song et al., Communication-efficient topologies for decentralized learning with O(1)
    consensus rate, arXiv:2210.07881 (D-EquiStatic, U-EquiStatic).
    Here differs: shifts are drawn without replacement, and again until the workers are connected.
    Sends: `shifts` vectors per worker and mix, undirected at most twice as many.
    Gap: hardly smaller with n; it depends on the draw. Averaged over directions of x, one mix
    leaves E ||W x||^2 / ||x||^2 = (n - 1 - M) / (n M), about 1 / M = 1 / shifts (see
    `contraction`).

    Example:
        >>> from hpc_localsgd.topology import gap, neighbours
        >>> neighbours(equi_static(shifts=2, seed=1).matrix(8), 0)
        [1, 4]
        >>> [round(gap(equi_static(shifts=8, directed=False), n), 2) for n in (32, 512)]
        [0.65, 0.28]

    Attributes:
        shifts: M, neighbours that a worker hears.
        directed: Whether shifts are used in one direction only, not in both.
        seed: Same seed, same shifts.
    """

    shifts: int = 4
    directed: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a negative seed and less than one shift."""
        refuse_below(self, shifts=1, seed=0)

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return a circulant matrix, or the mean of it and its transpose."""
        del k
        if n == 1:
            return np.ones((1, 1))
        mean = np.mean([_shift(n, u) for u in self._drawn(n)], axis=0)
        W = np.eye(n) / n + (1 - 1 / n) * mean
        return W if self.directed else (W + W.T) / 2

    def _drawn(self, n: int) -> list[int]:
        rng = np.random.default_rng([self.seed, n])
        while True:
            drawn = rng.choice(np.arange(1, n), min(self.shifts, n - 1), replace=False).tolist()
            if gcd(n, *drawn) == 1:
                return drawn


@dataclass(frozen=True)
class equi_dynamic(Topology):
    """EquiDyn: one random shift, drawn again at each mix, and half of what is heard there.

        directed:    W^(k)_ii = W^(k)_ij = 1/2 for j = i + u_k mod n
        undirected:  the same for pairs {i, j} along the circles of the shift, begun anywhere; the
                     last of a circle of odd length stays alone

    Source: Song et al., Communication-efficient topologies for decentralized learning with O(1)
    consensus rate, arXiv:2210.07881 (OD-EquiDyn, OU-EquiDyn).
    Here differs: shifts are drawn from all n - 1 of them; the weights are 1/2, the paper's
    eta = n / (2 n - 2), with which the most disagreement goes.
    Sends: 1 vector per worker and mix (none by those that stay alone).
    Gap: 1 - sqrt(rho) with E ||W x||^2 = rho ||x||^2 for all x of mean zero; directed
    rho = (n - 2) / (2 (n - 1)) for every n > 1, undirected at most 2/3 and estimated.

    Example:
        >>> from hpc_localsgd.topology import gap, neighbours
        >>> [neighbours(equi_dynamic().matrix(8, k), 0) for k in range(4)]
        [[6], [4], [7], [4]]
        >>> round(gap(equi_dynamic(), 9), 3)  # 1 - sqrt(7/16)
        0.339
        >>> neighbours(equi_dynamic(directed=False).matrix(9, 0), 4)
        [2]

    Attributes:
        directed: Whether a worker hears from another worker than it sends to.
        seed: Same seed, same shifts at every mix, on every rank.
    """

    directed: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a negative seed."""
        refuse_below(self, seed=0)

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return half the identity, half the shift of this mix; or pairs along it."""
        if n == 1:
            return np.ones((1, 1))
        rng = np.random.default_rng([self.seed, k])
        u = int(rng.integers(1, n))
        if self.directed:
            return (np.eye(n) + _shift(n, u)) / 2
        W, length = np.eye(n), n // gcd(n, u)
        for circle in range(gcd(n, u)):
            i = circle + u * (int(rng.integers(length)) + np.arange(length // 2 * 2))
            left, right = (i % n).reshape(-1, 2).T
            W[left, left] = W[right, right] = W[left, right] = W[right, left] = 0.5
        return W

    def period(self, n: int) -> int | None:
        """Return None: never repeats."""
        del n
        return None


def _shift(n: int, u: int) -> np.ndarray:
    return np.roll(np.eye(n), u, axis=1)
