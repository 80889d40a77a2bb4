"""Topologies against the closed forms (oracle O6), and doubly stochastic for every n."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    metropolis,
    neighbours,
    one_peer_exponential,
    random_pairs,
    random_regular,
    ring,
    spectral_gap,
    star,
    torus,
    validate,
    vectors_sent,
)

TOPOLOGIES: list[Topology] = [
    complete(),
    ring(),
    torus(),
    grid(),
    star(),
    hypercube(),
    exponential(),
    one_peer_exponential(),
    random_pairs(),
    random_pairs(seed=7),
    random_regular(degree=2),
    random_regular(degree=3, seed=1),
    random_regular(),
    base_graph(),
    base_graph(degree=3),
    equi_static(),
    equi_static(shifts=2, directed=False, seed=1),
    equi_dynamic(),
    equi_dynamic(directed=False, seed=3),
    lazy(),
    lazy(of=torus()),
    lazy(of=random_pairs()),
]
SYMMETRIC = (complete, ring, torus, grid, star, hypercube, random_pairs, random_regular, lazy)


def symmetric(topology: Topology) -> bool:
    """Whether every worker hears those it sends to, with equal weights."""
    undirected = getattr(topology, "directed", True) is False
    return undirected or isinstance(topology, (*SYMMETRIC, base_graph))


def allowed(topology: Topology, n: int) -> bool:
    """Whether the topology takes n workers."""
    try:
        topology.check(n)
    except ValueError:
        return False
    return True


# ---- doubly stochastic for every n ---------------------------------------------------------------


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


# ---- O6: spectral gaps ---------------------------------------------------------------------------

O6 = [
    *[(ring(), n, g) for n, g in [(3, 1), (4, 0.6667), (5, 0.460655), (6, 0.3333), (8, 0.195262)]],
    *[(ring(), n, g) for n, g in [(16, 0.0507470), (32, 0.0128098)]],
    *[(exponential(), n, g) for n, g in [(4, 2 / 3), (8, 0.5), (16, 0.4), (32, 1 / 3)]],
    (torus(), 16, 0.4),
    *[(grid(), n, g) for n, g in [(4, 0.6667), (9, 0.232577), (16, 0.131359)]],
    *[(complete(), n, 1) for n in (2, 3, 8, 32)],
]


@pytest.mark.parametrize(("topology", "n", "expected"), O6)
def test_gap_is_that_of_the_oracle(topology: Topology, n: int, expected: float) -> None:
    digits = 5e-5 if expected in (0.6667, 0.3333) else 5e-7
    assert gap(topology, n) == pytest.approx(expected, abs=digits)
    assert gap(topology, n) == spectral_gap(topology.matrix(n))


@pytest.mark.parametrize("n", range(2, 41))
def test_gap_is_the_closed_form_of_the_docstrings(n: int) -> None:
    modes = np.cos(2 * np.pi * np.arange(1, n) / n)
    if n > 2:
        assert gap(ring(), n) == pytest.approx(1 - np.abs(1 + 2 * modes).max() / 3)
        assert gap(star(), n) == pytest.approx(1 / n)
    of_the_exponential = 2 / (1 + np.ceil(np.log2(n)))
    if n % 2 == 0:
        assert gap(exponential(), n) == pytest.approx(of_the_exponential)
    assert gap(exponential(), n) > of_the_exponential - 1e-12
    if allowed(hypercube(), n):
        assert gap(hypercube(), n) == pytest.approx(of_the_exponential)


@pytest.mark.parametrize(("n", "b"), [(9, 3), (12, 4), (16, 4), (20, 5), (35, 7), (36, 6)])
def test_gap_of_a_torus_is_bounded_by_its_longer_side(n: int, b: int) -> None:
    assert 0 < gap(torus(), n) <= 2 * (1 - np.cos(2 * np.pi / b)) / 5 + 1e-12


def test_random_regular_keeps_its_gap_while_the_ring_loses_it() -> None:
    large = (4 - 2 * np.sqrt(3)) / 5
    assert gap(random_regular(degree=4), 400) == pytest.approx(large, rel=0.15)
    assert gap(ring(), 400) < large / 1000


def test_gap_of_matrices_that_are_not_circulant() -> None:
    assert spectral_gap(np.eye(4)) == 0
    assert spectral_gap(np.roll(np.eye(4), 1, axis=1)) == pytest.approx(0, abs=1e-12)
    W = (np.eye(6)[[1, 2, 0, 4, 5, 3]] + np.eye(6)[[3, 0, 1, 5, 4, 2]]) / 2
    eigenvalues = np.sort(np.abs(np.linalg.eigvals(W)))
    assert spectral_gap(W) == pytest.approx(1 - eigenvalues[-2])


# ---- weights and neighbours ----------------------------------------------------------------------


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


# ---- time-varying --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_one_peer_mixes_of_one_period_are_the_exact_average(n: int, first: int) -> None:
    topology, p = one_peer_exponential(), int(np.log2(n))
    assert topology.period(n) == p
    product = reduce(np.matmul, [topology.matrix(n, k) for k in range(first, first + p)])
    np.testing.assert_array_equal(product, np.full((n, n), 1 / n))
    assert gap(topology, n) == 1


def test_one_peer_with_any_number_of_workers_agrees_in_the_end() -> None:
    for n in (3, 5, 6, 7, 12, 33):
        p = one_peer_exponential().period(n)
        assert p == np.ceil(np.log2(n))
        mixes = [one_peer_exponential().matrix(n, k) for k in range(p)]
        factor = np.linalg.norm(reduce(np.matmul, mixes) - 1 / n, ord=2)
        assert 0 < factor < 1
        assert gap(one_peer_exponential(), n) == pytest.approx(1 - factor ** (1 / p))


@pytest.mark.parametrize("n", [2, 7, 8, 16])
def test_random_pairs_shrink_the_disagreement_as_derived(n: int) -> None:
    rho = (n - 2) / (2 * (n - 1)) if n % 2 == 0 else 0.5
    assert gap(random_pairs(), n) == pytest.approx(1 - np.sqrt(rho))
    x = np.random.default_rng(0).standard_normal(n)
    x -= x.mean()
    mixed = [random_pairs().matrix(n, k) @ x for k in range(4000)]
    assert np.mean(np.square(mixed).sum(axis=1)) / (x @ x) == pytest.approx(rho, rel=0.03, abs=1e-9)


def test_random_pairs_are_a_matching() -> None:
    for n in (8, 9):
        W = random_pairs().matrix(n, 11)
        alone = [i for i in range(n) if not neighbours(W, i)]
        assert len(alone) == n % 2
        for i in set(range(n)) - set(alone):
            (j,) = neighbours(W, i)
            assert neighbours(W, j) == [i] and W[i, i] == W[i, j] == 0.5


def test_a_lazy_random_topology_has_the_expected_contraction() -> None:
    n = 8  # E W'^T W' = (I + 3 E W) / 4, as W^T W = W for a matching
    rho = (1 + 3 * (n - 2) / (2 * (n - 1))) / 4
    assert gap(lazy(of=random_pairs()), n) == pytest.approx(1 - np.sqrt(rho))


def test_periods() -> None:
    assert [t.period(8) for t in (ring(), random_regular(), lazy())] == [1, 1, 1]
    assert [one_peer_exponential().period(n) for n in (1, 2, 3, 8, 9)] == [1, 1, 2, 3, 4]
    assert random_pairs().period(8) is None and lazy(of=random_pairs()).period(8) is None
    assert lazy(of=one_peer_exponential()).period(8) == 3
    assert [equi_static().period(8), equi_dynamic().period(8)] == [1, None]


# ---- determinism ---------------------------------------------------------------------------------


def test_random_topologies_are_functions_of_seed_and_mix() -> None:
    later_first = [random_pairs(seed=3).weights(10, k) for k in (5, 4)]
    np.testing.assert_array_equal(random_pairs(seed=3).weights(10, 5), later_first[0])
    assert (later_first[0] != later_first[1]).any()
    assert (random_pairs(seed=4).weights(10, 5) != later_first[0]).any()
    for made in (random_regular, equi_static):
        graph = made(seed=3).weights(10, 0)
        np.testing.assert_array_equal(graph, made(seed=3).weights(10, 9))
        assert (graph != made(seed=4).weights(10, 0)).any()


def test_another_process_draws_the_same_graphs() -> None:
    code = (
        "from hpc_localsgd.topology import *\n"
        "for t in (random_pairs(3), random_regular(4, 3)):\n"
        "    print([neighbours(t.matrix(12, 5), i) for i in range(12)])"
    )
    lines = [
        [neighbours(t.matrix(12, 5), i) for i in range(12)]
        for t in (random_pairs(3), random_regular(4, 3))
    ]
    for hash_seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert out.splitlines() == [str(line) for line in lines]


def test_random_regular_is_connected_and_regular() -> None:
    for seed in range(20):
        W = random_regular(degree=2, seed=seed).matrix(12)
        assert nx.is_connected(nx.from_numpy_array(W))
        assert vectors_sent(W).tolist() == [2] * 12


def test_topologies_are_values() -> None:
    assert lazy(of=ring()) == lazy() and random_regular(3) != random_regular(4)
    assert repr(lazy(of=random_regular(degree=4, seed=0))) == (
        "lazy(of=random_regular(degree=4, seed=0))"
    )


# ---- lazy, lambda_min ----------------------------------------------------------------------------


def test_lambda_min_and_the_condition_of_d2() -> None:
    assert lambda_min(ring().matrix(8)) == pytest.approx(-1 / 3)
    assert lambda_min(torus().matrix(16)) == pytest.approx(-3 / 5)
    for topology in (ring(), torus(), hypercube()):
        eigenvalues = np.linalg.eigvalsh(topology.matrix(16))
        W = lazy(of=topology).matrix(16)
        assert lambda_min(W) > -1e-12
        assert spectral_gap(W) == pytest.approx((1 - eigenvalues[-2]) / 2)


# ---- custom --------------------------------------------------------------------------------------


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


# ---- errors: what was given, what is allowed, what to type ---------------------------------------


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
