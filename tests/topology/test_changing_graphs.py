"""Graphs that change from mix to mix, and those that are drawn: periods, contraction, seeds."""

from __future__ import annotations

import subprocess
import sys
from functools import reduce
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from hpc_localsgd.topology import (
    equi_dynamic,
    equi_static,
    gap,
    lazy,
    neighbours,
    one_peer_exponential,
    random_pairs,
    random_regular,
    ring,
    vectors_sent,
)


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
