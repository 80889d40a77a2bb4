"""O13 and O14: estimators and directions where the answer is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hpc_localsgd.curvature import (
    deviations,
    half_trace,
    hutchinson,
    smoothed,
    smoothed_by_workers,
    spectral_density,
    top_eigenvalues,
    worst_direction,
)
from hpc_localsgd.curvature.density import lanczos, quadrature
from hpc_localsgd.curvature.probes import Estimate, rademacher

from .small import multiplier, risk_of


def symmetric(n: int, seed: int = 0) -> torch.Tensor:
    A = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, n)))
    return (A + A.T) / 2


def around(x: torch.Tensor, K: int, size: float, seed: int = 0) -> torch.Tensor:
    """K workers whose mean is x."""
    apart = torch.from_numpy(np.random.default_rng(seed).standard_normal((K, len(x))))
    return x + size * (apart - apart.mean(0))


def test_n_steps_of_lanczos_recover_a_spectrum_of_thirty() -> None:
    A = symmetric(30)
    start = rademacher(0, 1, A[0], 0)
    nodes, _ = quadrature(*(rows[0] for rows in lanczos(multiplier(A), start, 30)))
    np.testing.assert_allclose(nodes, np.linalg.eigvalsh(A.numpy()), atol=1e-12)
    found = top_eigenvalues(multiplier(A), A[0], 30)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(A.numpy())[::-1], atol=1e-12)


def test_ten_steps_have_the_first_moments_of_the_probe_exactly() -> None:
    A = symmetric(30)
    found = spectral_density(multiplier(A), A[0], steps=10, probes=4)
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-13)
    for i in range(4):
        z = rademacher(i, 1, A[0], 0)[0]
        v = z
        for power in range(1, 20):  # 2m - 1 = 19
            v = A @ v
            moment = float((found.weights[i] * found.nodes[i] ** power).sum())
            scale = float((found.weights[i] * np.abs(found.nodes[i]) ** power).sum())
            assert moment == pytest.approx(float(z @ v) / 30, abs=1e-11 * scale)


def test_a_krylov_space_that_ends_early_does_no_harm() -> None:
    """Two eigenvalues: two steps say all, the others have no weight."""
    A = torch.diag(torch.tensor([1.0] * 10 + [3.0] * 10, dtype=torch.float64))
    found = spectral_density(multiplier(A), A[0], steps=8, probes=3)
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-12)
    assert found.moment(1).value == pytest.approx(2)
    assert found.moment(3).value == pytest.approx(14)


def test_one_probe_is_exact_for_a_diagonal() -> None:
    h = torch.linspace(-1, 3, 50, dtype=torch.float64)
    found = hutchinson(lambda V: V * h, h, most=1, least=1)
    assert found.value == pytest.approx(float(h.sum()), rel=1e-14)
    assert math.isnan(found.error)


def test_the_variance_of_hutchinson_is_as_the_formula_says() -> None:
    A = symmetric(60)
    want = 2 * float((A**2).sum() - (A.diagonal() ** 2).sum())
    found = hutchinson(multiplier(A), A[0], tolerance=0, most=6000, vectors=1000)
    assert found.error**2 * found.probes == pytest.approx(want, rel=0.06)
    assert abs(found.value - float(A.trace())) < 3 * found.error


def test_hutchinson_stops_when_the_tolerance_is_met() -> None:
    A = symmetric(60) + 20 * torch.eye(60, dtype=torch.float64)
    rough = hutchinson(multiplier(A), A[0], tolerance=0.05)
    fine = hutchinson(multiplier(A), A[0], tolerance=0.005, most=5000)
    assert rough.probes == 10 < fine.probes < 5000
    assert fine.error <= 0.005 * fine.value
    assert hutchinson(multiplier(A), A[0], tolerance=0, most=25).probes == 25


def test_how_many_vectors_go_in_a_pass_changes_no_number() -> None:
    A = symmetric(40)
    one = hutchinson(multiplier(A), A[0], tolerance=0, most=12, vectors=1)
    many = hutchinson(multiplier(A), A[0], tolerance=0, most=12, vectors=5)
    assert one.value == pytest.approx(many.value, rel=1e-12)
    a = spectral_density(multiplier(A), A[0], steps=6, probes=5, vectors=1)
    b = spectral_density(multiplier(A), A[0], steps=6, probes=5, vectors=5)
    np.testing.assert_allclose(a.nodes, b.nodes, rtol=1e-8)


@pytest.mark.parametrize(("factor", "stable"), [(0.99, True), (1.01, False)])
def test_gradient_descent_is_stable_below_two_over_the_largest(factor: float, stable: bool) -> None:
    A = symmetric(30) @ symmetric(30) + torch.eye(30, dtype=torch.float64)
    top = top_eigenvalues(multiplier(A), A[0], 1).values[0]
    x = torch.ones(30, dtype=torch.float64)
    for _ in range(3000):
        x = x - factor * 2 / top * (A @ x)
    assert (float(x.norm()) < 1) == stable


def test_the_loss_at_the_workers_is_half_the_trace_for_a_quadratic() -> None:
    A = symmetric(20)
    risk = risk_of(lambda x: 0.5 * x @ A @ x + x.sum(), 20)
    x = torch.linspace(0, 1, 20, dtype=torch.float64)
    workers = around(x, 7, 0.3)
    apart = deviations(workers)
    gap = float(risk.losses(workers).mean() - risk.losses(x[None])[0])
    predicted = half_trace(risk.at(x).products, apart, vectors=3)
    assert gap == pytest.approx(predicted, rel=1e-11)
    xi = apart.T @ apart / 7
    assert predicted == pytest.approx(0.5 * float((A @ xi).trace()), rel=1e-11)


def test_the_gradients_at_the_workers_show_the_third_derivative_for_a_cubic() -> None:
    """(1/m) sum grad L(w_j) - grad L(w_a) = 1/2 grad^3 L[Xi], exactly."""
    stream = np.random.default_rng(1)
    T = torch.from_numpy(stream.standard_normal((6, 6, 6)))
    T = sum(
        (T.permute(p) for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))),
        0 * T,
    )
    A = symmetric(6)

    def cubic(x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ijk,i,j,k->", T, x, x, x) / 6 + 0.5 * x @ A @ x

    risk = risk_of(cubic, 6)
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    workers = around(x, 5, 0.5)
    xi = deviations(workers).T @ deviations(workers) / 5
    gap = torch.stack([risk.gradient(w) for w in workers]).mean(0) - risk.gradient(x)
    torch.testing.assert_close(gap, 0.5 * torch.einsum("ijk,jk->i", T, xi), rtol=0, atol=1e-12)


def test_the_quartic_has_the_smoothed_loss_of_the_paper() -> None:
    """L = x^4 / 4 at .7 with variance .09: 1.5 x^2 s + .75 s^2 = .072225."""
    risk = risk_of(lambda x: 0.25 * (x**4).sum(), 1)
    x = torch.tensor([0.7], dtype=torch.float64)
    found = smoothed(risk.losses, x, 0.3, probes=4000)
    assert 1.5 * 0.49 * 0.09 + 0.75 * 0.09**2 == pytest.approx(0.072225)
    assert abs(found.value - 0.072225) < 3 * found.error
    assert found.error < 0.002


def test_the_smoothed_corner_has_the_curvature_of_the_paper() -> None:
    """L = |x|: E|x + e| has the curvature sqrt(2 / pi) / sigma at 0, its maximum."""
    sigma, h = 0.5, 0.05
    risk = risk_of(lambda x: x.abs().sum(), 1)
    near, at = (
        smoothed(risk.losses, torch.tensor([x], dtype=torch.float64), sigma, probes=8000)
        for x in (h, 0.0)
    )
    curvature = 2 * (near.value + h - at.value) / h**2
    assert curvature == pytest.approx(math.sqrt(2 / math.pi) / sigma, rel=0.05)


def test_isotropic_smoothing_of_a_quadratic_is_half_its_trace() -> None:
    A = symmetric(30) + 3 * torch.eye(30, dtype=torch.float64)
    risk = risk_of(lambda x: 0.5 * x @ A @ x + 5 * x.sum(), 30)
    found = smoothed(risk.losses, torch.ones(30, dtype=torch.float64), 0.2, probes=400)
    want = 0.2**2 / 2 * float(A.trace())
    assert abs(found.value - want) < 3 * found.error
    assert found.error < 0.05 * want  # opposite pairs: the large slope does not enter


def test_smoothing_with_the_workers_own_covariance() -> None:
    A = symmetric(30) + 3 * torch.eye(30, dtype=torch.float64)
    risk = risk_of(lambda x: 0.5 * x @ A @ x + 5 * x.sum(), 30)
    x = torch.ones(30, dtype=torch.float64)
    apart = deviations(around(x, 6, 0.3))
    found = smoothed_by_workers(risk.losses, x, apart, probes=500)
    assert abs(found.value - half_trace(risk.at(x).products, apart)) < 3 * found.error


def test_the_worst_direction_of_a_quadratic() -> None:
    """At the minimum it is rho^2 / 2 lambda_max; on a slope rho ||g|| to first order."""
    h = torch.tensor([1.0, 2.0, 8.0], dtype=torch.float64)
    risk = risk_of(lambda x: 0.5 * (h * x * x).sum(), 3)
    almost = torch.tensor([1e-6, 1e-6, 1e-6], dtype=torch.float64)
    rise = worst_direction(risk.losses, risk.gradient, almost, 0.1, steps=20)
    assert rise == pytest.approx(0.1**2 / 2 * 8, rel=1e-3)
    x = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    g, e = h * x, 1e-4 * h * x / (h * x).norm()
    one = worst_direction(risk.losses, risk.gradient, x, 1e-4)
    assert one == pytest.approx(float(g @ e + 0.5 * e @ (h * e)), rel=1e-9)
    flat = torch.zeros(3, dtype=torch.float64)
    assert worst_direction(risk.losses, risk.gradient, flat, 0.1) == 0


def test_a_linear_loss_has_no_curvature() -> None:
    risk = risk_of(lambda x: 3 * x.sum(), 4).at(torch.ones(4, dtype=torch.float64))
    assert (risk.products(torch.ones(2, 4, dtype=torch.float64)) == 0).all()


def test_an_estimate_reads_well() -> None:
    assert str(Estimate.of([1.0, 2.0, 3.0], offset=10)) == "12 ± 0.58"
