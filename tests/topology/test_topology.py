"""Topologies: doubly stochastic for every n, with the weights and neighbours of the pictures."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled_topologies import TOPOLOGIES, allowed, symmetric

from hpc_localsgd.topology import (
    Topology,
    base_graph,
    complete,
    custom,
    equi_dynamic,
    equi_static,
    exponential,
    gap,
    grid,
    hypercube,
    lambda_min,
    lazy,
    neighbours,
    one_peer_exponential,
    random_pairs,
    random_regular,
    ring,
    star,
    torus,
    validate,
    vectors_sent,
)


@settings(max_examples=300, deadline=None)
@given(topology=st.sampled_from(TOPOLOGIES), n=st.integers(1, 40), k=st.integers(0, 10**9))
def test_every_matrix_is_doubly_stochastic(topology: Topology, n: int, k: int) -> None:
    if not allowed(topology, n):
        return
    W = topology.matrix(n, k)
    assert W.shape == (n, n) and W.dtype == np.float64
    assert (W >= 0).all() and not W.flags.writeable
    np.testing.assert_allclose(W.sum(axis=0), 1, atol=1e-14)
    np.testing.assert_allclose(W.sum(axis=1), 1, atol=1e-14)
    if symmetric(topology):
        np.testing.assert_array_equal(W, W.T)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=repr)
def test_one_worker_is_left_alone(topology: Topology) -> None:
    np.testing.assert_array_equal(topology.matrix(1, 3), [[1.0]])
    assert gap(topology, 1) == 1
    assert neighbours(topology.matrix(1), 0) == []


@pytest.mark.parametrize(
    "topology", [t for t in TOPOLOGIES if allowed(t, 2) and not isinstance(t, lazy)], ids=repr
)
def test_two_workers_take_their_mean(topology: Topology) -> None:
    np.testing.assert_array_equal(topology.matrix(2, 5), [[0.5, 0.5], [0.5, 0.5]])
    assert gap(topology, 2) == 1


@pytest.mark.parametrize("topology", [ring(), torus(), exponential(), random_regular(degree=2)])
def test_three_workers_of_a_regular_graph_are_complete(topology: Topology) -> None:
    np.testing.assert_allclose(topology.matrix(3), complete().matrix(3), atol=1e-15)
    assert gap(topology, 3) == pytest.approx(1)


def test_three_workers_in_a_line_and_a_star() -> None:
    third = 1 / 3
    line = [[2 * third, third, 0], [third, third, third], [0, third, 2 * third]]
    np.testing.assert_allclose(grid().matrix(3), line, atol=1e-15)
    around_0 = [[third, third, third], [third, 2 * third, 0], [third, 0, 2 * third]]
    np.testing.assert_allclose(star().matrix(3), around_0, atol=1e-15)


def test_torus_counts_coinciding_neighbours_once() -> None:
    np.testing.assert_allclose(torus().matrix(16)[torus().matrix(16) > 0], 0.2)
    for n, weight in [(4, 1 / 3), (6, 1 / 4), (8, 1 / 4), (9, 1 / 5)]:
        W = torus().matrix(n)
        np.testing.assert_allclose(W[W > 0], weight)
    np.testing.assert_array_equal(torus().matrix(7), ring().matrix(7))


def test_neighbours_are_those_of_the_pictures() -> None:
    assert neighbours(ring().matrix(5), 0) == [1, 4]
    assert neighbours(grid().matrix(6), 1) == [0, 2, 4]
    assert neighbours(torus().matrix(16), 0) == [1, 3, 4, 12]
    assert neighbours(star().matrix(5), 0) == [1, 2, 3, 4]
    assert neighbours(star().matrix(5), 3) == [0]
    assert neighbours(hypercube().matrix(8), 0b010) == [0b000, 0b011, 0b110]


def test_exponential_graphs_are_directed() -> None:
    W = exponential().matrix(16)
    assert neighbours(W, 0) == [1, 2, 4, 8]
    assert neighbours(W.T, 0) == [8, 12, 14, 15]
    np.testing.assert_allclose(W[W > 0], 1 / 5)
    peers = [neighbours(one_peer_exponential().matrix(16, k), 3) for k in range(5)]
    assert peers == [[4], [5], [7], [11], [4]]


@pytest.mark.parametrize(
    ("topology", "sent"),
    [
        (complete(), [7] * 8),
        (ring(), [2] * 8),
        (torus(), [3] * 8),
        (grid(), [2, 3, 3, 2, 2, 3, 3, 2]),
        (star(), [7] + [1] * 7),
        (hypercube(), [3] * 8),
        (exponential(), [3] * 8),
        (one_peer_exponential(), [1] * 8),
        (random_pairs(), [1] * 8),
        (random_regular(), [4] * 8),
        (base_graph(), [1] * 8),
        (base_graph(degree=3), [3] * 8),
        (equi_static(), [4] * 8),
        (equi_static(shifts=9), [7] * 8),
        (equi_dynamic(), [1] * 8),
        (lazy(), [2] * 8),
    ],
    ids=repr,
)
def test_vectors_sent(topology: Topology, sent: list[int]) -> None:
    W = topology.matrix(8)
    assert vectors_sent(W).tolist() == sent
    assert [len(neighbours(W.T, k)) for k in range(8)] == sent


def test_vectors_sent_does_not_count_a_missing_diagonal() -> None:
    assert vectors_sent(np.roll(np.eye(3), 1, axis=1)).tolist() == [1, 1, 1]


def test_topologies_are_values() -> None:
    assert lazy(of=ring()) == lazy() and random_regular(3) != random_regular(4)
    assert repr(lazy(of=random_regular(degree=4, seed=0))) == (
        "lazy(of=random_regular(degree=4, seed=0))"
    )


@pytest.mark.parametrize(
    ("fault", "texts"),
    [
        (lambda: ring().matrix(0), ["at least 1 worker, got 0"]),
        (lambda: lazy().matrix(-2), ["at least 1 worker, got -2"]),
        (lambda: hypercube().matrix(12), ["got 12", "use 8 or 16 workers", "exponential"]),
        (lambda: hypercube().matrix(3), ["use 2 or 4 workers"]),
        (lambda: lazy(of=hypercube()).matrix(12), ["use 8 or 16 workers"]),
        (
            lambda: random_regular(degree=3).matrix(7),
            ["7 workers", "3 neighbours", "Use 6 or 8 workers", "random_regular(degree=2)"],
        ),
        (lambda: random_regular().matrix(4), ["Use 5 workers", "random_regular(degree=3) for 4"]),
        (lambda: random_regular(degree=1).matrix(4), ["Use 2 workers", "degree=2"]),
        (lambda: random_regular(degree=0), ["random_regular(degree=0, seed=0)", "at least 1"]),
        (lambda: random_pairs(seed=-1), ["random_pairs(seed=-1)", "not be negative"]),
        (lambda: base_graph(degree=0), ["base_graph(degree=0)", "at least 1"]),
        (lambda: equi_static(shifts=0), ["equi_static(shifts=0", "at least 1"]),
        (lambda: equi_static(seed=-1), ["seed=-1", "not be negative"]),
        (lambda: equi_dynamic(seed=-1), ["seed=-1", "not be negative"]),
        (
            lambda: custom(ring().matrix(4)).matrix(8),
            ["custom(W=<4 workers>) is for 4 workers, the run has 8", "use 4 workers", "8 x 8"],
        ),
        (lambda: custom("w.txt"), ["'w.txt'", ".npy nor a .csv"]),
        (lambda: custom("nowhere.npy"), ["cannot read", "nowhere.npy"]),
        (lambda: custom(nx.DiGraph([(0, 1)])), ["directed", "custom(graph.to_undirected())"]),
        (lambda: custom(np.ones((2, 3)) / 3), ["one row and one column per worker", "(2, 3)"]),
        (lambda: custom(nx.Graph()), ["shape (0, 0)"]),
        (lambda: validate(np.ones(3)), ["shape (3,)"]),
        (lambda: lambda_min(exponential().matrix(8)), ["not symmetric", "lazy(of=ring())"]),
    ],
)
def test_errors_say_what_to_type(fault: Callable[[], object], texts: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        fault()
    for text in texts:
        assert text in str(error.value)
