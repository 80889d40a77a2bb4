"""Graphs and matrices of one's own: what `custom` takes, and what is wrong with a matrix."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_localsgd.topology import (
    Topology,
    custom,
    grid,
    metropolis,
    ring,
    spectral_gap,
    validate,
)


def test_custom_takes_a_matrix_a_file_or_a_graph(tmp_path: Path) -> None:
    W = ring().matrix(5)
    np.save(tmp_path / "w.npy", W)
    np.savetxt(tmp_path / "w.csv", W, delimiter=",", fmt="%.17g")
    for given_ in (W, W.tolist(), tmp_path / "w.npy", str(tmp_path / "w.csv"), nx.cycle_graph(5)):
        np.testing.assert_array_equal(custom(given_).matrix(5, 3), W)
    assert repr(custom(f"{tmp_path}/w.npy")) == f"custom(W='{tmp_path}/w.npy')"
    assert repr(custom(W)) == "custom(W=<5 workers>)"


def test_custom_keeps_its_own_copy() -> None:
    W = np.full((2, 2), 0.5)
    topology = custom(W)
    W[0, 0] = 3
    np.testing.assert_array_equal(topology.matrix(2), np.full((2, 2), 0.5))


def test_metropolis_puts_worker_i_at_node_i() -> None:
    shuffled = nx.Graph([(2, 1), (1, 0), (0, 0)])
    np.testing.assert_array_equal(metropolis(shuffled), grid().matrix(3))
    named = nx.MultiGraph([("b", "a"), ("a", "c"), ("a", "c")])
    named.add_edge("a", "b", weight=0.0)
    np.testing.assert_array_equal(metropolis(named), grid().matrix(3))


@given(graph=st.integers(0, 10**6), n=st.integers(1, 20))
@settings(deadline=None)
def test_metropolis_is_doubly_stochastic_on_any_graph(graph: int, n: int) -> None:
    W = custom(nx.gnp_random_graph(n, 0.3, seed=graph)).matrix(n)
    assert (np.diag(W) > 0).all() and 0 <= spectral_gap(W) <= 1


@pytest.mark.parametrize(
    ("W", "texts"),
    [
        ([[1.5, -0.5], [-0.5, 1.5]], ["[0, 1]", "-0.5", "not negative"]),
        ([[np.nan, 1], [0, 1]], ["[0, 0]", "nan", "finite"]),
        ([[0.5, 0.5], [0.3, 0.5]], ["row 1", "sums to 0.8", "worker 1's parameters would shrink"]),
        ([[0.9, 0.5], [0.3, 0.5]], ["row 0", "sums to 1.4", "would grow"]),
        ([[1, 0], [1, 0]], ["column 0", "sums to 2", "worker 0's share of the mean would grow"]),
        ([[0.333, 0.667], [0.6670001, 0.333]], ["row 1", "1.0000001", "all their digits"]),
    ],
)
def test_validate_names_the_row_or_column_and_what_it_would_do(
    W: list[list[float]], texts: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        validate(np.array(W))
    for text in texts:
        assert text in str(error.value)


def test_a_published_torus_would_have_been_caught() -> None:
    W = (np.eye(4) + nx.to_numpy_array(nx.cycle_graph(4))) / 5
    with pytest.raises(ValueError, match=r"sums to 0\.6.*shrink"):
        custom(W)


def test_a_topology_of_ones_own_is_validated_too() -> None:
    class wrong(Topology):
        def weights(self, n: int, k: int) -> np.ndarray:
            return np.eye(n) / 2

    with pytest.raises(ValueError, match=r"column 0 .* sums to 0\.5"):
        wrong().matrix(3)
