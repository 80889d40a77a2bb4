"""Spectral gaps and smallest eigenvalues against the closed forms (oracle O6)."""

from __future__ import annotations

import numpy as np
import pytest
from sampled_topologies import allowed

from hpc_localsgd.topology import (
    Topology,
    complete,
    exponential,
    gap,
    grid,
    hypercube,
    lambda_min,
    lazy,
    random_regular,
    ring,
    spectral_gap,
    star,
    torus,
)

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


def test_lambda_min_and_the_condition_of_d2() -> None:
    assert lambda_min(ring().matrix(8)) == pytest.approx(-1 / 3)
    assert lambda_min(torus().matrix(16)) == pytest.approx(-3 / 5)
    for topology in (ring(), torus(), hypercube()):
        eigenvalues = np.linalg.eigvalsh(topology.matrix(16))
        W = lazy(of=topology).matrix(16)
        assert lambda_min(W) > -1e-12
        assert spectral_gap(W) == pytest.approx((1 - eigenvalues[-2]) / 2)
