"""The Slow SDE against Local SGD itself on a valley of two dimensions, and on a circle."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.valley import LR, START, STEPS, K, ways
from hpc_localsgd.analysis.slow_sde import (
    Manifold,
    Regime,
    diffusion,
    drift,
    euler_maruyama,
    flow_to_minimum,
    label_noise_drift,
    psi,
    regulariser,
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
