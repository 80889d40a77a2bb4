"""The Slow SDE against closed forms, and against Local SGD itself on a valley of two dimensions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.valley import LR, START, STEPS, K, ways
from hpc_localsgd.analysis.slow_sde import (
    F,
    Manifold,
    Regime,
    diffusion,
    drift,
    euler_maruyama,
    flow_to_minimum,
    label_noise_drift,
    lyapunov,
    psi,
    regulariser,
    split,
)

# O5: L = (1 + x^2) y^2 / 2, noise in g_y with variance 1 + x^2 per sample, one sample a worker.
VALLEY = Manifold(
    hessian=lambda z: np.diag([0.0, 1 + z[0] ** 2]),
    third=lambda z, M: np.array([2 * z[0] * M[1, 1], 4 * z[0] * M[0, 1]]),
    noise=lambda z: np.diag([0.0, 1 + z[0] ** 2]),
    project=lambda z: np.array([z[0], 0.0]),
)
PREDICTED = {1: 0.8986, 2: 0.7701, 4: 0.6072, 16: 0.2682, 64: 0.0771}
SIMULATED = {1: 0.899, 2: 0.771, 4: 0.608, 16: 0.269, 64: 0.078}


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


def test_the_drift_in_the_valley_is_the_closed_form() -> None:
    for x in (0.1, 1.0, 2.0):
        for rounds in (1, 16, 500):
            regime = Regime(K=K, batch=K, lr=LR, H=rounds)
            boost = 1 + (K - 1) * float(psi(2 * LR * rounds * (1 + x**2)))
            want = [-x / (2 * K) * boost, 0.0]
            np.testing.assert_allclose(drift(VALLEY, np.array([x, 0.0]), regime), want)


@pytest.mark.parametrize(("regime", "rate"), [("sgd", 1 / K), ("endless", 1.0)])
def test_the_path_is_the_exponential_of_the_limits(regime: str, rate: float) -> None:
    """x0 exp(-t / (2B)) for SGD, and K times its logarithm for endless rounds."""
    both = {"sgd": Regime(1, K, LR), "endless": Regime(K, K, LR, math.inf)}
    path = euler_maruyama(VALLEY, np.array([START, 0.3]), both[regime], STEPS, n=2000, seed=None)
    t = LR**2 * path.step
    np.testing.assert_allclose(path.zeta[:, 0], START * np.exp(-rate * t / 2), rtol=6e-3)
    assert (path.zeta[:, 1] == 0).all()
    assert path.step[-1] == STEPS


@pytest.fixture(scope="module")
def ends() -> dict[int, float]:
    """x after 20000 steps of Local SGD on the valley, the mean of 128 repeats."""
    return {H: float(x[-1]) for H, x in ways().items()}


def predicted(H: float, finite: bool = True) -> float:
    regime = Regime(K=K, batch=K, lr=LR, H=H, finite=finite)
    path = euler_maruyama(VALLEY, np.array([START, 0.0]), regime, STEPS, n=1000, seed=None)
    return float(path.zeta[-1, 0])


@pytest.mark.parametrize("H", PREDICTED)
def test_local_sgd_goes_where_the_finite_form_says(H: int, ends: dict[int, float]) -> None:
    """R1: five lengths of a round, within 3 %."""
    assert predicted(H) == pytest.approx(PREDICTED[H], rel=5e-3)  # a step of the integrator is 20
    assert ends[H] == pytest.approx(predicted(H), rel=0.03)
    assert ends[H] == pytest.approx(SIMULATED[H], abs=0.006)


def test_the_decay_grows_with_the_round_towards_K(ends: dict[int, float]) -> None:
    decay = np.log(START / np.array([ends[H] for H in PREDICTED]))
    ratio = decay / decay[0]
    assert (np.diff(ratio) > 0).all()
    assert 5 < ratio[-1] < K


def test_the_limit_form_is_visibly_wrong_for_short_rounds() -> None:
    assert predicted(1, finite=False) < 0.97 * PREDICTED[1]
    assert predicted(64, finite=False) == pytest.approx(PREDICTED[64], rel=0.15)


def test_diffusion_does_not_depend_on_the_round() -> None:
    """Pure tangent noise: the mean is the same random walk, with variance eta^2 steps s^2 / K."""
    steps, repeats = 4000, 1500
    noise = np.random.default_rng(2).standard_normal((steps, repeats)) / np.sqrt(K)
    walk = (LR * noise).sum(0)
    assert walk.var() == pytest.approx(LR**2 * steps / K, rel=0.1)  # .2
    flat = Manifold(
        hessian=VALLEY.hessian,
        third=VALLEY.third,
        noise=lambda z: np.diag([1.0, 0.0]),
        project=VALLEY.project,
    )
    zeta = np.array([0.7, 0.0])
    for H in (1, 8, 64, math.inf):
        A = diffusion(flat, zeta, Regime(K=K, batch=K, lr=LR, H=H))
        np.testing.assert_allclose(A, np.diag([1 / np.sqrt(K), 0.0]), atol=1e-15)
        assert (drift(flat, zeta, Regime(K=K, batch=K, lr=LR, H=H)) == 0).all()


def test_the_mean_walks_the_same_way_whatever_the_round() -> None:
    """The same noise, and rounds of 1, 8 and 64 steps: one walk, to rounding."""
    noise = np.random.default_rng(3).standard_normal((512, K))
    walks = []
    for H in (1, 8, 64):
        x = np.zeros(K)
        for t in range(512):
            x = x - LR * noise[t]
            x = np.full(K, x.mean()) if (t + 1) % H == 0 else x
        walks.append(x.mean())
    assert np.ptp(walks) < 1e-14


def test_the_integrator_diffuses_as_it_should() -> None:
    flat = Manifold(
        hessian=VALLEY.hessian,
        third=lambda z, M: np.zeros(2),
        noise=lambda z: np.diag([1.0, 0.0]),
        project=VALLEY.project,
    )
    regime = Regime(K=K, batch=K, lr=LR, H=64)
    ends = [
        euler_maruyama(flat, np.zeros(2), regime, 4000, 4, seed).zeta[-1, 0] for seed in range(600)
    ]
    assert np.var(ends) == pytest.approx(0.2, rel=0.2)


def test_the_ito_correction_keeps_a_path_on_the_circle() -> None:
    """L = (|z| - 1)^2 / 2 with isotropic noise: Brownian motion on the circle, which decorrelates
    as E cos(angle) = exp(-t / 2B); without the correction it would leave along the tangent."""

    def P(z: np.ndarray) -> np.ndarray:
        return np.eye(2) - np.outer(z, z)

    circle = Manifold(
        hessian=lambda z: np.outer(z, z),
        third=lambda z, M: 2 * P(z) @ M @ z + z * np.trace(P(z) @ M),
        noise=lambda z: np.eye(2),
        project=lambda z: z / np.linalg.norm(z),
    )
    regime = Regime(K=1, batch=1, lr=0.1)
    paths = [euler_maruyama(circle, np.array([1.0, 0.0]), regime, 100, 40, s) for s in range(400)]
    angles = np.array([path.zeta[-1, 0] for path in paths])
    assert np.allclose([np.linalg.norm(path.zeta[-1]) for path in paths], 1, atol=1e-14)
    assert angles.mean() == pytest.approx(math.exp(-0.5), abs=3 * angles.std() / 20)


def test_label_noise_descends_its_regulariser() -> None:
    """The closed form, the general drift with Sigma = c Hessian, and a difference of both."""
    for H in (1, 16, 300, math.inf):
        regime = Regime(K=K, batch=32, lr=LR, H=H)
        zeta, c = np.array([0.8, 0.0]), 2.5
        noisy = Manifold(
            VALLEY.hessian, VALLEY.third, lambda z: 2.5 * VALLEY.hessian(z), VALLEY.project
        )
        closed = label_noise_drift(VALLEY, zeta, regime, c)
        np.testing.assert_allclose(closed, drift(noisy, zeta, regime), rtol=1e-12)

        def value(x: float, regime: Regime = regime) -> float:
            return float(regulariser(np.array([0.0, 1 + x * x]), regime))

        slope = (value(0.8 + 1e-5) - value(0.8 - 1e-5)) / 2e-5
        assert closed[0] == pytest.approx(-c / (4 * 32) * slope, rel=1e-7)


def test_rounding_of_a_flat_eigenvalue_does_not_matter() -> None:
    regime = Regime(K=8, batch=8, lr=0.02, H=64)
    assert regulariser(np.array([2.0, -1e-17]), regime) == regulariser(np.array([2.0, 0]), regime)


def test_the_regulariser_goes_from_the_trace_to_K_times_it() -> None:
    eigenvalues = np.array([[0.0, 1.0, 3.0], [0.5, 0.5, 0.5]])
    trace = eigenvalues.sum(1)
    short, endless = Regime(K, K, 1e-9), Regime(K, K, LR, math.inf)
    np.testing.assert_allclose(regulariser(eigenvalues, short), trace, rtol=1e-7)
    np.testing.assert_allclose(regulariser(eigenvalues, endless), K * trace)


def test_the_flow_ends_where_the_conserved_quantity_says() -> None:
    """In the valley, ln x + x^2 / 2 - y^2 / 2 does not change along the flow."""
    x, y = 1.1, 0.6
    end = flow_to_minimum(
        lambda z: np.array([z[0] * z[1] ** 2, (1 + z[0] ** 2) * z[1]]), np.array([x, y]), step=0.005
    )
    assert math.log(end[0]) + end[0] ** 2 / 2 == pytest.approx(
        math.log(x) + x * x / 2 - y * y / 2, abs=1e-8
    )
    assert abs(end[1]) < 1e-10
    with pytest.raises(ValueError, match="has not ended"):
        flow_to_minimum(lambda z: z, np.ones(2), step=1e-6, most=10)
    with pytest.raises(ValueError, match="too long"):
        with np.errstate(all="ignore"):
            flow_to_minimum(lambda z: z**3 * 1e3, np.full(2, 9.0), step=9.0)
