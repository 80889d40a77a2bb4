"""Base-(k+1) graphs, EquiTopo and directed graphs against what their papers prove of them."""

from __future__ import annotations

from functools import reduce
from math import log

import networkx as nx
import numpy as np
import pytest

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology import (
    Topology,
    base_graph,
    complete,
    contraction,
    custom,
    equi_dynamic,
    equi_static,
    gap,
    lazy,
    neighbours,
    one_peer_exponential,
    random_directed,
    spectral_gap,
    vectors_sent,
)


def mixes(topology: base_graph, n: int) -> list[np.ndarray]:
    return [topology.matrix(n, k) for k in range(topology.period(n))]


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_one_period_of_a_base_graph_is_the_exact_average(degree: int) -> None:
    """For any number of workers, with `degree` neighbours, in 2 log_(k+1) n + 2 mixes at most."""
    for n in (*range(1, 34), 60, 97, 125):
        found = mixes(base_graph(degree), n)
        product = reduce(lambda done, W: W @ done, found)
        np.testing.assert_allclose(product, np.full((n, n), 1 / n), rtol=0, atol=1e-15)
        assert gap(base_graph(degree), n) == 1
        assert max(vectors_sent(W).max() for W in found) <= degree
        assert len(found) <= max(1, 2 * log(n, degree + 1) + 2 + 1e-9)


@pytest.mark.parametrize(
    ("degree", "lengths"),
    [
        # 5 = 4 + 1 and 7 = 4 + 2 + 1: 2 mixes in the parts, 1 between them, 2 in the first again;
        # 6 = 2 x 3: two groups of 3 = 2 + 1 need 3 mixes, and 1 more between the groups.
        (1, {1: 1, 2: 1, 3: 3, 4: 2, 5: 5, 6: 4, 7: 5, 8: 3, 16: 4, 17: 9}),
        (2, {3: 1, 4: 2, 5: 3, 6: 2, 8: 3, 9: 2, 12: 3, 27: 3}),
        (3, {4: 1, 5: 3, 12: 2, 16: 2, 24: 3}),
        (7, {8: 1, 64: 2, 216: 3}),  # 216 = 6 x 6 x 6, and 8 x 27 would need four
    ],
)
def test_how_many_mixes_they_need(degree: int, lengths: dict[int, int]) -> None:
    assert {n: base_graph(degree).period(n) for n in lengths} == lengths


def test_with_a_power_of_two_it_is_as_quick_as_the_one_peer_graph() -> None:
    for n in (2, 4, 8, 32):
        assert base_graph().period(n) == one_peer_exponential().period(n)
    np.testing.assert_array_equal(base_graph(degree=7).matrix(8), complete().matrix(8))


def test_five_workers_meet_as_in_the_paper() -> None:
    """4 + 1: the one takes four fifths of its peer, which takes as much of it."""
    third = base_graph().matrix(5, 2)
    assert neighbours(third, 4) == [0] and neighbours(third, 1) == []
    np.testing.assert_allclose(third[np.ix_([0, 4], [0, 4])], [[0.2, 0.8], [0.8, 0.2]])


@pytest.mark.parametrize("n", [3, 8, 13, 64])
@pytest.mark.parametrize("shifts", [1, 2, 4, 11])
def test_what_one_mix_of_a_static_graph_leaves(n: int, shifts: int) -> None:
    M = min(shifts, n - 1)
    W = equi_static(shifts=shifts).matrix(n)
    assert contraction(W)[0] == pytest.approx((n - 1 - M) / (n * M), abs=1e-12)
    assert gap(equi_static(shifts=shifts), n) > 0, "connected"
    offsets = {(j - i) % n for i, j in np.argwhere(W > 0)}
    assert len(offsets) == M + 1 and 0 in offsets
    symmetric = equi_static(shifts=shifts, directed=False).matrix(n)
    np.testing.assert_allclose(symmetric, (W + W.T) / 2, atol=1e-15)


def test_all_shifts_are_the_complete_graph() -> None:
    for shifts in (6, 20):
        np.testing.assert_allclose(equi_static(shifts).matrix(7), complete().matrix(7), atol=1e-15)


def test_the_gap_of_a_static_graph_stays_while_workers_are_added() -> None:
    """||W - J|| stays below a bound that depends on log n / M alone; a ring of 300 has 1 - 1e-4."""
    for n in (50, 150, 300):
        assert all(gap(equi_static(shifts=12, seed=s), n) > 0.3 for s in range(5))


@pytest.mark.parametrize("n", [2, 5, 8, 9])
def test_a_shift_at_a_time_contracts_as_derived(n: int) -> None:
    """E S(u) = (n J - I) / (n - 1) over the n - 1 shifts, so a half of each leaves this much."""
    rho = (n - 2) / (2 * (n - 1))
    assert gap(equi_dynamic(), n) == pytest.approx(1 - np.sqrt(rho))
    x = np.random.default_rng(0).standard_normal(n)
    x -= x.mean()
    mixed = [equi_dynamic().weights(n, k) @ x for k in range(4000)]
    assert np.mean(np.square(mixed).sum(axis=1)) / (x @ x) == pytest.approx(rho, rel=0.05, abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 8, 9, 12])
def test_pairs_along_a_shift(n: int) -> None:
    alone, seen = [], set()
    for k in range(300):
        W = equi_dynamic(directed=False).weights(n, k)
        pairs = np.argwhere(np.triu(W, 1))
        np.testing.assert_array_equal(W[W > 0], np.where(W == 1, 1, 0.5)[W > 0])
        assert len(pairs) * 2 >= 2 * n / 3 - 1e-9, "a third stays alone at most"
        seen |= {(int(i), int(j)) for i, j in pairs}
        alone.append(n - 2 * len(pairs))
    assert len(seen) == n * (n - 1) // 2, "everybody meets everybody in the end"
    assert (0 in alone) == (n % 2 == 0)


# ---- directed graphs, of which only the columns sum to one --------------------------------------


@pytest.mark.parametrize("degree", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 17])
def test_everybody_gives_away_equal_parts_and_hears_of_everybody(n: int, degree: int) -> None:
    topology = random_directed(degree=degree, seed=4)
    W, to = topology.push_matrix(n), min(degree, n - 1)
    np.testing.assert_allclose(W.sum(axis=0), 1, atol=1e-15)
    np.testing.assert_allclose(W[W > 0], 1 / (to + 1))
    assert topology.sent(n).tolist() == [to] * n and (np.diag(W) > 0).all()
    assert nx.is_strongly_connected(nx.from_numpy_array(W, create_using=nx.DiGraph))
    np.testing.assert_array_equal(W, random_directed(degree=degree, seed=4).weights(n, 9))


def test_how_many_are_heard_is_chance() -> None:
    W = random_directed(degree=3).push_matrix(24)
    assert len({len(neighbours(W, k)) for k in range(24)}) > 2
    assert (random_directed(degree=3, seed=1).push_matrix(24) != W).any()


TRIANGLE = nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)])  # 0 sends to 1 and 2


@pytest.mark.parametrize(
    ("topology", "n"),
    [(random_directed(), 6), (lazy(of=random_directed()), 6), (custom(TRIANGLE), 3)],
    ids=str,
)
def test_what_only_push_sum_takes_is_refused_to_others(topology: Topology, n: int) -> None:
    assert 0 < gap(topology, n) <= 1
    with pytest.raises(ConfigurationError, match="row . of the mixing .* The algorithm push_sum"):
        topology.matrix(n)


def test_the_gap_of_a_directed_graph_is_that_of_its_second_eigenvalue() -> None:
    W = random_directed().push_matrix(12)
    eigenvalues = np.sort(np.abs(np.linalg.eigvals(W)))
    assert spectral_gap(W) == pytest.approx(1 - eigenvalues[-2])


class drawn_anew(Topology):
    """Another directed graph at every mix."""

    def weights(self, n: int, k: int) -> np.ndarray:
        return random_directed(seed=k).weights(n, 0)

    def period(self, n: int) -> None:
        return None


def test_the_gap_of_directed_graphs_drawn_anew_is_what_their_mixes_leave() -> None:
    n, x = 12, np.random.default_rng(0).standard_normal((12, 3000))
    x -= x.mean(axis=0)
    mixed = [np.square(drawn_anew().push_matrix(n, k) @ x).sum() for k in range(16)]
    left = np.mean(mixed) / np.square(x).sum()
    assert gap(drawn_anew(), n) == pytest.approx(1 - np.sqrt(left), rel=0.02)


def test_a_directed_graph_of_ones_own() -> None:
    third, half = 1 / 3, 0.5
    expected = [[third, 0, half], [third, half, 0], [third, half, half]]
    np.testing.assert_allclose(custom(TRIANGLE).push_matrix(3), expected, atol=1e-15)
    assert custom(TRIANGLE).sent(3).tolist() == [2, 1, 1]
    np.testing.assert_allclose(custom(expected).push_matrix(3), expected, atol=1e-15)


def test_what_is_given_away_must_come_back() -> None:
    for given in (nx.DiGraph([(0, 1)]), [[0.5, 0.0], [0.5, 1.0]]):
        with pytest.raises(ConfigurationError, match="directed and not strongly connected"):
            custom(given)
    custom([[1.0, 0.0], [0.0, 1.0]])  # nobody gives anything


def test_a_degree_below_one_and_a_negative_seed_are_refused() -> None:
    for wrong in ({"degree": 0}, {"seed": -1}):
        with pytest.raises(ConfigurationError, match="random_directed"):
            random_directed(**wrong)
