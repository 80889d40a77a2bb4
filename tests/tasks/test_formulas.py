"""The toys against their closed forms, run by the real loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_runs import go, small_run

from hpc_localsgd.analysis.slow_sde import Manifold, Regime, drift, flow_to_minimum
from hpc_localsgd.curvature import build_for_curvature
from hpc_localsgd.curvature.risk import Risk
from hpc_localsgd.curvature.subset import pieces
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.diagonal_net import diagonal_net
from hpc_localsgd.tasks.execution import Execution
from hpc_localsgd.tasks.manifold import manifold
from hpc_localsgd.tasks.quadratic import quadratic


@pytest.mark.parametrize("H", [1, 4, 16])
def test_spread_and_variance_of_a_noisy_quadratic(H: int) -> None:
    """eta = .1, h = 1, s^2 = 1, K = 8: variance .006579; spread .00875, .0262285, .0444713."""
    n = 6_000
    spec = quadratic(h=(1.0,), dim=n, noise=1.0, spread_out=0.0)
    memory_of = small_run(spec=spec, K=8, H=H, steps=64, lr=0.1, batch=1)
    p, memory = go(memory_of, spread=1 if H > 1 else 0)
    limit = 0.1**2 / 8 / (1 - 0.9**2)
    assert limit == pytest.approx(0.006578947, rel=1e-6)
    slack = 4 * np.sqrt(2 / n)  # four standard errors of a variance
    assert p.x[0].square().mean().item() == pytest.approx(limit, rel=slack)
    if H > 1:
        expected = {4: 0.0262285, 16: 0.0444713}[H]
        found = memory.values["spread"][-1][1] / n
        assert found == pytest.approx(expected, rel=slack)


@pytest.mark.parametrize(
    ("H", "end"), [(1, 0.75), (2, 0.7285714), (10, 0.5987111), (100, 0.5000066)]
)
def test_unequal_workers_settle_where_local_steps_lead_them(H: int, end: float) -> None:
    spec = quadratic(h=(1.0,), dim=2, noise=0.0, minima=(0.0, 1.0), scales=(1.0, 3.0))
    p, _ = go(small_run(spec=spec, K=2, H=H, steps=400, lr=0.1))
    torch.testing.assert_close(p.x[0], torch.full((2,), end, dtype=p.x.dtype), rtol=1e-6, atol=0)


def test_the_risk_of_unequal_workers_is_their_mean() -> None:
    spec = quadratic(h=(1.0,), dim=1, minima=(0.0, 1.0), scales=(1.0, 3.0))
    task = spec.build(TaskContext(workers=2, dtype=torch.float64))
    x = torch.tensor([0.5], dtype=torch.float64)
    loss, right, samples = task.evaluate(x, "test", range(10), task.buffers[0])
    assert loss == 10 * (0.125 + 0.375) / 2
    assert right.isnan()
    assert samples == 10


@pytest.mark.parametrize("execution", [Execution(precision="bf16"), Execution(accumulate=2)])
@pytest.mark.parametrize("spec", [quadratic(), manifold()])
def test_what_is_for_networks_is_refused(spec: Any, execution: Execution) -> None:
    with pytest.raises(ConfigurationError, match="this task is a formula: leave them out"):
        spec.build(TaskContext(workers=2, batch=4, execution=execution))


def test_the_hessian_of_the_quadratic_is_as_given() -> None:
    task = build_for_curvature(quadratic(h=(3.0, 0.5), dim=4), batch=8, dtype=torch.float64)
    risk = Risk(task, pieces(task, 16)).at(task.init(0))
    expected = torch.diag(torch.tensor([3.0, 0.5, 3.0, 0.5], dtype=torch.float64))
    torch.testing.assert_close(risk.products(torch.eye(4, dtype=torch.float64)), expected)


def test_curvature_of_workers_that_differ_is_refused() -> None:
    """It would be that of one of them."""
    with pytest.raises(ConfigurationError, match="minimise different losses"):
        build_for_curvature(quadratic(h=(1.0,), dim=3, scales=(1.0, 3.0)), batch=8)


def valley(spec: manifold) -> Manifold:
    return Manifold(spec.hessian, spec.third, spec.covariance, spec.project)


def test_the_manifold_knows_its_own_derivatives() -> None:
    """Hessian and third derivative against autograd of the risk; Phi against the flow."""
    spec = manifold(pairs=2)
    task: Any = spec.build(TaskContext(dtype=torch.float64))
    zeta = np.array([0.7, -1.2, 0.0, 0.0])
    at = torch.from_numpy(zeta)
    hessian = torch.autograd.functional.hessian(task.risk, at)
    np.testing.assert_allclose(spec.hessian(zeta), hessian, atol=1e-14)
    M = np.random.default_rng(0).standard_normal((4, 4))
    M = M + M.T

    def contracted(x: torch.Tensor) -> torch.Tensor:
        second = torch.autograd.functional.hessian(task.risk, x, create_graph=True)
        return (second * torch.from_numpy(M)).sum()

    third = torch.autograd.functional.jacobian(contracted, at)
    np.testing.assert_allclose(spec.third(zeta, M), third, atol=1e-13)
    off = np.array([0.7, -1.2, 0.5, -0.4])

    def gradient(x: np.ndarray) -> np.ndarray:
        return torch.autograd.functional.jacobian(task.risk, torch.from_numpy(x)).numpy()

    np.testing.assert_allclose(
        spec.project(off), flow_to_minimum(gradient, off, step=0.02), atol=1e-8
    )


def test_label_noise_drifts_along_the_valley_as_the_slow_sde_says() -> None:
    spec = manifold(pairs=1, x=1.0)
    found = drift(valley(spec), np.array([1.0, 0.0]), Regime(K=1, batch=8, lr=0.01))
    np.testing.assert_allclose(found, [-1 / 16, 0.0], atol=1e-12)


@pytest.mark.parametrize("H", [1, 16])
def test_local_steps_flatten_faster_and_as_predicted(H: int) -> None:
    """K = 8, one sample a worker, eta = .1: x after 400 steps, against the integrated drift."""
    K, lr, steps, spec = 8, 0.1, 400, manifold(pairs=128, y=0.0)
    p, _ = go(small_run(spec=spec, K=K, H=H, steps=steps, lr=lr, batch=1))
    found = p.x[0, : spec.pairs].mean().item()
    regime, one, x = Regime(K, K, lr, H, finite=True), manifold(pairs=1), 1.5
    for _ in range(steps):
        x += lr**2 * float(drift(valley(one), np.array([x, 0.0]), regime)[0])
    assert np.log(1.5 / found) == pytest.approx(np.log(1.5 / x), rel=0.04)  # to order eta
    assert found < {1: 1.25, 16: 0.75}[H]


def test_noise_along_the_valley_diffuses_whatever_H_is() -> None:
    spec = manifold(pairs=2000, noise=0.0, y=0.0, tangent=1.0)
    ends = []
    for H in (1, 8):
        p, _ = go(small_run(spec=spec, K=4, H=H, steps=16, lr=0.05, batch=1))
        ends.append(p.x[0, : spec.pairs])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-13)
    variance = (ends[0] - 1.5).square().mean().item()
    assert variance == pytest.approx(0.05**2 * 16 / 4, rel=4 * np.sqrt(2 / spec.pairs))


@pytest.mark.parametrize(
    "make",
    [
        lambda: quadratic(h=()),
        lambda: quadratic(noise=-1.0),
        lambda: manifold(pairs=0),
        lambda: manifold(tangent=-1.0),
    ],
)
def test_what_has_no_meaning_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_the_trace_of_a_diagonal_net_is_its_norm_on_the_minimisers() -> None:
    """tr H = 4 sum_j mean(x_j^2) (u_j^2 + v_j^2), where the samples are fitted."""
    spec = diagonal_net(dim=7, samples=4, sparse=2, noise=0.0)
    task = spec.build(TaskContext(dtype=torch.float64, seed=3, batch=1))
    off = torch.linalg.svd(task.inputs).Vh[-1]  # no sample sees it
    w = task.answer + off
    u, v = (w.clamp(min=0) + 0.3).sqrt(), ((-w).clamp(min=0) + 0.3).sqrt()
    x = torch.cat([u, v])
    assert task.risk(x) < 1e-28
    hessian = torch.autograd.functional.hessian(task.risk, x)
    expected = 4 * (task.inputs.square().mean(0) * (u.square() + v.square())).sum()
    torch.testing.assert_close(hessian.trace(), expected)
    at_test = task.evaluate(x, "test", range(2), task.buffers[0])
    assert at_test[0] == pytest.approx(2 * 0.5 * float(off.square().sum()))
    assert task.evaluate(x, "train", range(2), task.buffers[0])[0] < 1e-27


def test_a_diagonal_net_without_its_noise_is_what_it_is_measured_on() -> None:
    task = diagonal_net(dim=6, samples=8).build(
        TaskContext(workers=2, local_workers=(0, 1), batch=3)
    )
    x = torch.linspace(-1, 1, 12)
    (numbers, _), (still, workers) = task.batch([1], 4), task.undisturbed(1, 4)
    torch.testing.assert_close(still[:, 0], numbers[0, :, 0])
    assert set(numbers[0, :, 1].tolist()) <= {-1.0, 1.0} and not still[:, 1].any()
    error = (task.inputs[still[:, 0].long()] * task.off(x)).sum(1)
    loss = task.loss(x, (still, workers))
    torch.testing.assert_close(loss, 0.5 * error.square().mean())


@pytest.mark.parametrize("wrong", [{"sparse": 0}, {"sparse": 9}, {"samples": 0}, {"noise": -1.0}])
def test_a_diagonal_net_refuses_impossible_sizes(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="sparse from 1 to dim"):
        diagonal_net(**{"dim": 8, **wrong})
