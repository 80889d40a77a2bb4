"""Closed forms that the Slow SDE is made of: psi, F, the Lyapunov operator, the finite form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.valley import LR, K
from hpc_localsgd.analysis.slow_sde import (
    F,
    Regime,
    lyapunov,
    psi,
    regulariser,
    split,
)


def random_matrix(d: int, rank: int | None = None, seed: int = 0) -> np.ndarray:
    A = np.random.default_rng(seed).standard_normal((d, rank or d))
    return A @ A.T


@pytest.mark.parametrize(
    ("x", "value"),
    [
        (1, 0.3678794412),
        (2, 0.5676676416),
        (5, 0.8013475894),
        (10, 0.9000045400),
        (100, 0.99),
    ],
)
def test_psi_has_the_values_of_the_paper(x: float, value: float) -> None:
    assert psi(x) == pytest.approx(value, abs=5e-11)


def test_psi_is_exact_near_zero() -> None:
    assert psi(0.0) == 0
    for x in (1e-300, 1e-12, 1e-8, 1e-4):
        assert psi(x) / x == pytest.approx(0.5 - x / 6 + x**2 / 24, rel=1e-15)
    below, above = np.nextafter(1.0, 0), 1.0  # where the series gives way to the formula
    assert psi(below) == pytest.approx(psi(above), rel=1e-15)
    assert psi(0.1) == pytest.approx((math.exp(-0.1) - 1 + 0.1) / 0.1, rel=1e-13)


def test_F_has_the_values_of_the_paper_and_is_the_integral_of_psi() -> None:
    from scipy import integrate, special  # a second, which other workers do not wait for

    assert F(1.0) == pytest.approx(0.2034004007, abs=5e-11)
    assert F(10.0) == pytest.approx(7.1201950851, abs=5e-11)
    for x in (1e-9, 0.3, 1.999, 2.0, 7.0):
        assert F(x) == pytest.approx(integrate.quad(psi, 0, x, epsrel=1e-13)[0], rel=1e-12)
    x = np.array([2.0, 30.0, 700.0, 1e6])
    np.testing.assert_allclose(F(x), x - special.exp1(x) - np.log(x) - np.euler_gamma, rtol=1e-13)
    assert F(1e-9) == pytest.approx(2.5e-19, rel=1e-8)
    with pytest.raises(ValueError, match="x >= 0"):
        F(-1.0)
    assert F(np.inf) == np.inf


def test_the_boost_of_a_nearly_flat_direction_is_none() -> None:
    """1 - (1 - x)^H has no digits left there."""
    regime = Regime(K=8, batch=8, lr=0.02, H=64, finite=True)
    total = 10.0 ** -np.arange(3, 17)
    want = 1 + 7 * 0.02 * total * 63 / 2  # to first order
    np.testing.assert_allclose(regime.boost(total), want, atol=1e-5)
    steep = 1 + 7 * (1 - (1 - (1 - 0.98) ** 64) / (64 * 0.98))
    np.testing.assert_allclose(regime.boost(np.array([49.0])), steep, rtol=1e-12)


def test_the_lyapunov_operator_solves_its_equation() -> None:
    from scipy.linalg import solve_continuous_lyapunov

    H, sigma = random_matrix(12, seed=1), random_matrix(12, seed=2)
    X = lyapunov(H, sigma)
    assert np.abs(H @ X + X @ H - sigma).max() < 1e-12 * np.abs(sigma).max()
    np.testing.assert_allclose(X, solve_continuous_lyapunov(H, sigma), rtol=1e-9, atol=1e-9)
    diagonal = lyapunov(np.diag([1.0, 2.0, 5.0]), sigma[:3, :3])
    by_hand = sigma[:3, :3] / np.add.outer([1.0, 2.0, 5.0], [1.0, 2.0, 5.0])
    np.testing.assert_allclose(diagonal, by_hand, rtol=1e-14)


def test_on_a_flat_manifold_only_the_tangent_noise_is_left_out() -> None:
    H, sigma = random_matrix(8, rank=5, seed=1), random_matrix(8, seed=2)
    parallel, rest = split(H, sigma)
    X = lyapunov(H, sigma)
    np.testing.assert_allclose(H @ X + X @ H, rest, atol=1e-11)
    np.testing.assert_allclose(parallel + rest, sigma, atol=1e-12)
    np.testing.assert_allclose(H @ parallel, 0, atol=1e-10)
    np.testing.assert_allclose(lyapunov(H, parallel), 0, atol=1e-11)


def test_the_weighted_operator_goes_from_nothing_to_the_plain_one() -> None:
    H, sigma = random_matrix(6, seed=3) + np.eye(6), random_matrix(6, seed=4)

    def weighted(rounds: float) -> np.ndarray:
        return lyapunov(H, sigma, lambda a, b: psi(rounds * (a + b)))

    plain = lyapunov(H, sigma)
    np.testing.assert_allclose(weighted(1e-9), 1e-9 / 2 * sigma, rtol=1e-5)
    np.testing.assert_allclose(weighted(1e9), plain, rtol=1e-5, atol=1e-8)
    regime = Regime(K=4, batch=16, lr=0.01, H=30)
    by_hand = 0.01 / 16 * (plain + 3 * weighted(0.3))
    np.testing.assert_allclose(regime.covariance(H, sigma), by_hand, rtol=1e-10)


def test_a_saddle_is_refused() -> None:
    with pytest.raises(ValueError, match="lives on minimisers"):
        lyapunov(np.diag([-1.0, 1.0]), np.eye(2))


def linear_recursion(H: np.ndarray, sigma: np.ndarray, regime: Regime) -> np.ndarray:
    """A worker's covariance, averaged over the points of a round, by iterating the recursion."""
    A = np.eye(len(H)) - regime.lr * H
    own = regime.lr**2 * sigma * regime.K / regime.batch  # noise of one worker's step
    mean = np.zeros_like(H)
    for _ in range(3000):
        mean = A @ mean @ A + own / regime.K
    total, worker = np.zeros_like(H), mean
    for _ in range(int(regime.H)):
        total += worker
        worker = A @ worker @ A + own
    return total / regime.H


def test_the_finite_form_is_the_balance_of_the_linear_recursion() -> None:
    H, sigma = random_matrix(5, seed=5) / 10 + np.eye(5) / 5, random_matrix(5, seed=6)
    for rounds in (1, 2, 7, 40):
        regime = Regime(K=4, batch=8, lr=0.2, H=rounds, finite=True)
        found = regime.covariance(H, sigma)
        np.testing.assert_allclose(found, linear_recursion(H, sigma, regime), rtol=1e-7)
    one = Regime(K=4, batch=8, lr=0.2, H=1, finite=True)
    np.testing.assert_allclose(one.covariance(H, sigma), one.sgd().covariance(H, sigma))
    with pytest.raises(ValueError, match="not below 2"):
        Regime(K=1, batch=1, lr=2.0, finite=True).covariance(np.eye(2), np.eye(2))


def test_the_finite_form_tends_to_the_slow_sde() -> None:
    H, sigma = random_matrix(5, seed=5) / 10 + np.eye(5) / 5, random_matrix(5, seed=6)
    for lr in (1e-2, 1e-4, 1e-6):
        finite = Regime(K=4, batch=8, lr=lr, H=round(0.5 / lr), finite=True)
        limit = Regime(K=4, batch=8, lr=lr, H=round(0.5 / lr))
        gap = np.abs(finite.covariance(H, sigma) / limit.covariance(H, sigma) - 1).max()
        assert gap < 5 * lr


def test_impossible_regimes_are_refused() -> None:
    for wrong in ({"K": 0}, {"lr": 0.0}, {"H": 0}, {"batch": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            Regime(**{"K": 2, "batch": 2, "lr": 0.1, **wrong})  # type: ignore[arg-type]


def test_rounding_of_a_flat_eigenvalue_does_not_matter() -> None:
    regime = Regime(K=8, batch=8, lr=0.02, H=64)
    assert regulariser(np.array([2.0, -1e-17]), regime) == regulariser(np.array([2.0, 0]), regime)


def test_the_regulariser_goes_from_the_trace_to_K_times_it() -> None:
    eigenvalues = np.array([[0.0, 1.0, 3.0], [0.5, 0.5, 0.5]])
    trace = eigenvalues.sum(1)
    short, endless = Regime(K, K, 1e-9), Regime(K, K, LR, math.inf)
    np.testing.assert_allclose(regulariser(eigenvalues, short), trace, rtol=1e-7)
    np.testing.assert_allclose(regulariser(eigenvalues, endless), K * trace)
