"""Topologies made from something given: a matrix, a graph, another topology."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import networkx as nx
import numpy as np

from hpc_localsgd.plan.topology.base import Topology, metropolis, validate
from hpc_localsgd.plan.topology.static import ring
from hpc_localsgd.types import ConfigurationError

Given: TypeAlias = Sequence[Sequence[float]] | np.ndarray | nx.Graph | PathLike | str


@dataclass(frozen=True, eq=False, repr=False)
class custom(Topology):
    """Your own mixing matrix, or your own graph with Metropolis weights on it.

        custom("weights.npy")    custom([[0.5, 0.5], [0.5, 0.5]])    custom(nx.petersen_graph())

    Checked as soon as it is made: square, not negative, rows and columns that sum to one. It need
    not be symmetric (but see `lambda_min`), nor connected: where the workers never agree, the gap
    is 0.

    Sends: one vector for each non-zero weight outside the diagonal.
    Gap: `gap(custom(...), n)`.

    Attributes:
        W: The matrix itself; the path of a .npy file, or of a .csv file with commas and no
            header; or an undirected networkx graph (`metropolis` says which node is which worker).
    """

    W: Given

    def __post_init__(self) -> None:
        """Reads and validates the matrix, before any rank communicates."""
        validate(self._weights)

    def __repr__(self) -> str:
        """The path where there is one, else the size."""
        if isinstance(self.W, str | PathLike):
            return f"custom(W={str(self.W)!r})"
        return f"custom(W=<{len(self._weights)} workers>)"

    def weights(self, n: int, k: int) -> np.ndarray:
        """The matrix given."""
        del n, k
        return self._weights

    def check(self, n: int) -> None:
        """Only as many workers as the matrix has rows."""
        super().check(n)
        if n != (size := len(self._weights)):
            raise ConfigurationError(
                f"{self!r} is for {size} workers, the run has {n}: use {size} workers, or give "
                f"a matrix of {n} x {n} or a graph of {n} nodes"
            )

    @cached_property
    def _weights(self) -> np.ndarray:
        if isinstance(self.W, nx.Graph):
            return _of_graph(self.W)
        return np.array(_read(self.W) if isinstance(self.W, str | PathLike) else self.W, float)


@dataclass(frozen=True)
class lazy(Topology):
    """Half of another topology, half staying where one is.

        W' = (I + W) / 2        lambda'_j = (1 + lambda_j) / 2

    All eigenvalues of a symmetric W' are at least 0. D2 needs more than -1/3, which an even ring
    (-1/3), a torus or a hypercube do not have.

    Source: Tang et al., D2: Decentralized training over decentralized data, arXiv:1803.07068.
    Sends: what `of` sends.
    Gap: (1 - lambda_1) / 2 with lambda_1 the second largest eigenvalue of a symmetric W.

    Attributes:
        of: The topology made lazy.
    """

    of: Topology = ring()

    def weights(self, n: int, k: int) -> np.ndarray:
        """Halfway between the identity and the matrix of `of`."""
        return (np.eye(n) + self.of.matrix(n, k)) / 2

    def period(self, n: int) -> int | None:
        """That of `of`."""
        return self.of.period(n)

    def check(self, n: int) -> None:
        """What `of` allows."""
        self.of.check(n)


def _of_graph(graph: nx.Graph) -> np.ndarray:
    if graph.is_directed():
        raise ConfigurationError(
            "custom: Metropolis weights need an undirected graph, and this one is directed: use "
            "custom(graph.to_undirected()), or give a doubly stochastic matrix"
        )
    return metropolis(graph)


def _read(path: str | PathLike) -> np.ndarray:
    kind = Path(path).suffix
    if kind not in (".npy", ".csv"):
        raise ConfigurationError(f"custom: {str(path)!r} is neither a .npy nor a .csv file")
    try:
        return np.load(path) if kind == ".npy" else np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"custom: cannot read a matrix of numbers from {str(path)!r}: {error}"
        ) from error
