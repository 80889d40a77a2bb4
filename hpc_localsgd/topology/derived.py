"""Topologies made from something given: a matrix, a graph, another topology."""

from __future__ import annotations

import ast
import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology.base import TOLERANCE, Topology, linked, metropolis, validate_columns
from hpc_localsgd.topology.static import ring
from hpc_localsgd.trajectory import regular_file

if TYPE_CHECKING:
    import networkx as nx

    Given: TypeAlias = Sequence[Sequence[float]] | np.ndarray | nx.Graph | PathLike | str
else:  # of the command line, on which nobody types a graph: it has no need of networkx
    Given: TypeAlias = Sequence[Sequence[float]] | np.ndarray | PathLike | str

MOST_BYTES = 1 << 30  # of a file: a matrix of 11,000 workers
_FORM = "type rows of real numbers, as [[0.5, 0.5], [0.5, 0.5]], or a .npy or .csv file"


@dataclass(frozen=True, eq=False, repr=False)
class custom(Topology):
    """Your own mixing matrix, or your own graph with Metropolis weights on it.

        custom("weights.npy")    custom([[0.5, 0.5], [0.5, 0.5]])    custom(nx.petersen_graph())

    Checked as soon as it is made: square, not negative, columns that sum to one. It need not be
    symmetric (but see `lambda_min`), nor connected: where the workers never agree, the gap is 0.
    Rows must sum to one too, which is checked when it is used, except by push-sum. Push-sum also
    accepts a directed graph, in which every worker gives equal parts to itself and to all it has an
    edge to, or any matrix of that kind; it must be strongly connected.

    Sends: one vector for each non-zero weight outside the diagonal.
    Gap: `gap(custom(...), n)`.

    Example:
        >>> W = [[0.75, 0.25], [0.25, 0.75]]
        >>> custom(W).matrix(2)
        array([[0.75, 0.25],
               [0.25, 0.75]])
        >>> from hpc_localsgd.topology import gap
        >>> gap(custom(W), 2)
        0.5

    Attributes:
        W: The matrix itself; the path of a .npy file, or of a .csv file with commas and no
            header; or a networkx graph (`metropolis` says which node is which worker).
    """

    W: Given

    def __post_init__(self) -> None:
        """Read and validate the matrix, before any rank communicates."""
        import networkx as nx

        W = self._weights
        validate_columns(W)
        heard = nx.from_numpy_array(W, create_using=nx.DiGraph)
        if np.ptp(W.sum(axis=1)) > TOLERANCE and not nx.is_strongly_connected(heard):
            raise ConfigurationError(
                f"{self!r} is directed and not strongly connected: what some worker gives away "
                "would not come back. Add edges, or use custom(graph.to_undirected())"
            )

    def __repr__(self) -> str:
        """Return the path where there is one, else the size."""
        if isinstance(self.W, str | PathLike):
            return f"custom(W={str(self.W)!r})"
        return f"custom(W=<{len(self._weights)} workers>)"

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return the matrix given."""
        del n, k
        return self._weights

    def check(self, n: int) -> None:
        """Check that there are as many workers as the matrix has rows.

        Raises:
            ConfigurationError: There are not.
        """
        super().check(n)
        if n != (size := len(self._weights)):
            raise ConfigurationError(
                f"{self!r} is for {size} workers, the run has {n}: use {size} workers, or give "
                f"a matrix of {n} x {n} or a graph of {n} nodes"
            )

    @cached_property
    def _weights(self) -> np.ndarray:
        import networkx as nx

        if isinstance(self.W, nx.Graph):
            return _of_graph(self.W)
        if isinstance(self.W, PathLike) or (isinstance(self.W, str) and not _is_list(self.W)):
            return _numbers(_read(self.W), f" of {str(self.W)!r}")
        return _numbers(_listed(self.W))


@dataclass(frozen=True)
class lazy(Topology):
    """Half of another topology, half the identity.

        W' = (I + W) / 2        lambda'_j = (1 + lambda_j) / 2

    All eigenvalues of a symmetric W' are at least 0. D2 needs more than -1/3, which an even ring
    (-1/3), a torus or a hypercube do not have.

    Source: Tang et al., D2: Decentralized training over decentralized data, arXiv:1803.07068.
    Sends: what `of` sends.
    Gap: (1 - lambda_1) / 2 with lambda_1 the second largest eigenvalue of a symmetric W.

    Example:
        >>> from hpc_localsgd.topology import lambda_min
        >>> lazy(ring()).matrix(4)[0].round(3)
        array([0.667, 0.167, 0.   , 0.167])
        >>> round(lambda_min(ring().matrix(4)), 3)
        -0.333
        >>> round(lambda_min(lazy(ring()).matrix(4)), 3)
        0.333

    Attributes:
        of: The topology made lazy.
    """

    of: Topology = ring()

    def weights(self, n: int, k: int) -> np.ndarray:
        """Return the mean of the identity and the matrix of `of`."""
        return (np.eye(n) + self.of.push_matrix(n, k)) / 2

    def period(self, n: int) -> int | None:
        """Return the period of `of`."""
        return self.of.period(n)

    def check(self, n: int) -> None:
        """Check n as `of` does."""
        self.of.check(n)


def _of_graph(graph: nx.Graph) -> np.ndarray:
    """Return Metropolis weights; of a directed graph equal parts for all that a worker sends to."""
    if not graph.is_directed():
        return metropolis(graph)
    sends = linked(graph).T  # an edge from j to i is an entry [i, j]
    np.fill_diagonal(sends, True)
    return sends / sends.sum(axis=0)


def _is_list(text: str) -> bool:
    """Return whether an option that may be a path holds a list."""
    return text.lstrip().startswith(("[", "(", "{"))


def _listed(W: Given) -> np.ndarray:
    """Return a matrix as it was written down, whatever is in it.

    Raises:
        ConfigurationError: Its rows are of several lengths.
    """
    try:
        return np.array(ast.literal_eval(W) if isinstance(W, str) else W)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ConfigurationError(
            f"custom: {W!s:.80} is not a matrix of numbers: {_FORM}"
        ) from error


def _numbers(W: np.ndarray, where: str = "") -> np.ndarray:
    """Return a matrix in float64.

    Raises:
        ConfigurationError: It holds values that are not real numbers.
    """
    if W.dtype.kind in "SUO":  # what a file of options has not made numbers of
        bad = next((each for each in W.ravel().tolist() if not _is_number(each)), None)
        if bad is not None:
            raise ConfigurationError(f"custom: {bad!r:.40}{where} is not a number: {_FORM}")
        return W.astype(float)
    if W.dtype.kind not in "biuf":
        what = "complex numbers" if W.dtype.kind == "c" else f"values of type {W.dtype}"
        raise ConfigurationError(f"custom: the matrix{where} holds {what}: {_FORM}")
    return W.astype(float)


def _is_number(value: object) -> bool:
    with suppress(TypeError, ValueError):
        float(value)  # type: ignore[arg-type]
        return True
    return False


def _read(path: str | PathLike) -> np.ndarray:
    """Read the matrix in a file.

    Raises:
        ConfigurationError: It cannot be read, is a pipe or a device, or is not a matrix.
    """
    kind = Path(path).suffix
    if kind not in (".npy", ".csv"):
        raise ConfigurationError(f"custom: {str(path)!r} is neither a .npy nor a .csv file")
    try:
        content = io.BytesIO(regular_file.read(path, MOST_BYTES))
        if kind == ".npy":
            return np.load(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file, whose shape is refused
            return np.loadtxt(content, delimiter=",", ndmin=2)
    except OSError as error:
        raise ConfigurationError(f"custom: cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, EOFError, MemoryError) as error:
        raise ConfigurationError(
            f"custom: cannot read a matrix of numbers from {str(path)!r}: {error}"
        ) from error
