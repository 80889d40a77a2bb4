"""Each method against its equation, by autograd and by the numbers of the papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from hpc_localsgd.gradients.asam import asam
from hpc_localsgd.gradients.average_direction import average_direction, coefficients
from hpc_localsgd.gradients.base import GradientAt
from hpc_localsgd.gradients.noise_injected import noise_injected
from hpc_localsgd.gradients.perturbed import normal
from hpc_localsgd.gradients.plain import plain
from hpc_localsgd.gradients.sam import sam
from hpc_localsgd.tasks.base import Batch, Task, TaskContext
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.partition import Partition
from hpc_localsgd.worlds.simulated import Simulated

K, T = 3, 5
CONTEXT = TaskContext(K, range(K), batch=8, dtype=torch.float64)
MLP = digits(hidden=8)
CONV = digits(model="conv", norm="batch", hidden=8)


class Function(Task):
    """Every worker minimises the same function of its row [P] -> []; there is no data."""

    def __init__(self, f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
        self.f, self.x, self.buffers = f, x.clone(), x.new_empty(len(x), 0)
        self.dim, self.sizes, self.decayed = x.shape[1], (x.shape[1],), 0
        self.partition, self.splits = Partition(len(x), len(x), 1), {}

    def batch(self, workers: Sequence[int], t: int) -> Batch:
        return torch.empty(0), torch.empty(0)

    def loss_and_grad(self, x: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.clone().requires_grad_()
        losses = torch.stack([self.f(row) for row in x])
        return losses.detach(), torch.autograd.grad(losses.sum(), x)[0]

    def init(self, seed: int) -> torch.Tensor:
        raise NotImplementedError

    def loss(
        self, x: torch.Tensor, batch: Batch, buffers: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.f(x)

    def evaluate(
        self, x: torch.Tensor, split: str, rows: range, buffers: torch.Tensor
    ) -> torch.Tensor:
        raise NotImplementedError

    def statistics(self, x: torch.Tensor, batches: Sequence[Batch]) -> torch.Tensor:
        raise NotImplementedError


def images(spec: digits = MLP) -> Task:
    """Three workers with different parameters."""
    task = spec.build(CONTEXT)
    task.x[:] = task.init(0)
    task.x += 0.05 * torch.randn_like(task.x)
    return task


def taken(
    method: GradientAt, task: Task, t: int = T, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    k = len(task.x)
    ours = method.wrap(task, Simulated(k), seed)
    loss, g = ours.loss_and_grad(ours.x, ours.batch(range(k), t))
    return loss.clone(), g.clone()


def by_hand(task: Task, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and gradients at any points [K, P], on the batches of step T, by autograd."""
    points = points.clone().requires_grad_()
    inputs, targets = task.batch(range(K), T)
    each = zip(points, inputs, targets, strict=True)
    losses = torch.stack([task.loss(x, (a, b)) for x, a, b in each])
    return losses.detach(), torch.autograd.grad(losses.sum(), points)[0]


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rho", [0.05, 0.7])
def test_sam(rho: float) -> None:
    task = images()
    at_x, g = by_hand(task, task.x)
    eps = torch.stack([rho * row / row.norm() for row in g])
    loss, ours = taken(sam(rho), task)
    close(ours, by_hand(task, task.x + eps)[1])
    close(loss, at_x)


@pytest.mark.parametrize(("rho", "eta"), [(0.5, 0.01), (1.0, 0.0)])
def test_asam(rho: float, eta: float) -> None:
    task = images()
    at_x, g = by_hand(task, task.x)
    stretch = torch.ones_like(g)
    stretch[:, : 64 * 8 + 8 * 10] = task.x[:, : 64 * 8 + 8 * 10].abs() + eta
    assert task.decayed == 64 * 8 + 8 * 10 < task.dim
    eps = torch.stack(
        [rho * s**2 * row / (s * row).norm() for s, row in zip(stretch, g, strict=True)]
    )
    loss, ours = taken(asam(rho, eta), task)
    close(ours, by_hand(task, task.x + eps)[1])
    close(loss, at_x)


def test_asam_without_weights_is_sam() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x**4).sum()

    x = torch.randn(K, 6, dtype=torch.float64)
    close(taken(asam(rho=0.2), Function(f, x))[1], taken(sam(rho=0.2), Function(f, x))[1])


def test_sam_of_a_quadratic() -> None:
    """L = h x^2 / 2 in one dimension: the gradient is h (x + rho sign x)."""
    x = torch.tensor([[0.3], [-2.0], [0.0]], dtype=torch.float64)
    _, g = taken(sam(rho=0.05), Function(lambda row: 1.5 * row.square().sum(), x))
    close(g, 3.0 * (x + 0.05 * x.sign()))  # at the minimum there is no way up, and no NaN


@pytest.mark.parametrize("method", [sam(), asam()], ids=repr)
def test_ascent_leaves_the_statistics_of_x(method: GradientAt) -> None:
    task, expected = images(CONV), images(CONV)
    expected.x.copy_(task.x)
    loss, _ = taken(method, task)
    plain_loss, _ = taken(plain(), expected)
    assert torch.equal(task.buffers, expected.buffers)
    assert torch.equal(loss, plain_loss)


def test_noise_injected_and_batchnorm() -> None:
    """One pass: loss, gradient and statistics are those of the plain task at x + eps."""
    task, moved = images(CONV), images(CONV)
    eps = torch.stack([normal(row, 9, k, T) for k, row in enumerate(task.x)])
    moved.x.copy_(task.x + 0.1 * eps)
    ours, expected = taken(noise_injected(0.1), task, seed=9), taken(plain(), moved)
    for a, b in zip([*ours, task.buffers], [*expected, moved.buffers], strict=True):
        close(a, b)


def test_draws_of_workers_are_their_own_or_shared() -> None:
    x = torch.zeros(K, 10_000, dtype=torch.float64)

    def task() -> Function:  # the gradient of x^2 / 2 at eps is eps
        return Function(lambda row: row.square().sum() / 2, x)

    own, shared = (
        taken(method, task())[1] for method in (noise_injected(0.3), average_direction(0.3))
    )
    assert torch.equal(shared[0], shared[1]) and torch.equal(shared[0], shared[2])
    assert torch.corrcoef(own).fill_diagonal_(0).abs().max() < 4 / 100
    for eps in (own, shared):
        assert eps.std(dim=1).sub(0.3).abs().max() < 4 * 0.3 / math.sqrt(2 * 10_000)
        assert eps.mean(dim=1).abs().max() < 4 * 0.3 / 100
    alone = [
        taken(m, Function(task().f, x[:1]))[1] for m in (noise_injected(), average_direction())
    ]
    assert torch.equal(*alone)  # the `Equals:` line


def test_smoothing_of_a_quartic() -> None:
    """O13: L = x^4 / 4 at x = 0.7, variance 0.09: E L - L = .072225, and E L' = x^3 + 3 x s."""
    n, x, s = 400_000, 0.7, 0.09
    point = torch.full((1, n), x, dtype=torch.float64)
    loss, g = taken(average_direction(math.sqrt(s)), Function(lambda w: (w**4).mean() / 4, point))
    eps = np.sqrt(s) * np.random.default_rng(0).standard_normal(n)
    error = ((x + eps) ** 4 / 4).std() / math.sqrt(n)
    assert abs(loss.item() - x**4 / 4 - 0.072225) < 4 * error < 0.0025
    error = ((x + eps) ** 3).std() / math.sqrt(n)
    assert abs(g.sum().item() - (x**3 + 3 * x * s)) < 4 * error < 0.005


def test_smoothing_of_a_kink() -> None:
    """O13: L = |x| smoothed has the curvature sqrt(2 / pi) / sigma = .79788 / sigma at 0."""
    n, sigma, h = 400_000, 0.5, 0.05

    def slope(x: float) -> float:
        task = Function(lambda w: w.abs().mean(), torch.full((1, n), x, dtype=torch.float64))
        return taken(average_direction(sigma), task)[1].sum().item()

    assert (slope(h) - slope(-h)) / (2 * h) * sigma == pytest.approx(0.79788, rel=0.03)


def cubic(dim: int) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """A random cubic and its third derivative [dim, dim, dim]."""
    A, B = torch.randn(dim, dim, dtype=torch.float64), torch.randn((dim,) * 3, dtype=torch.float64)
    ways = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    third = sum((B.permute(way) for way in ways), torch.zeros_like(B))

    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("i,ij,j", x, A, x) + torch.einsum("ijk,i,j,k", B, x, x, x)

    return f, third


def test_gradient_diversity_of_a_cubic() -> None:
    """O13: mean_k grad L(x_k) - grad L(mean) = grad^3 L[Xi] / 2, exactly."""
    f, third = cubic(5)
    x = torch.randn(K, 5, dtype=torch.float64)
    mean = x.mean(0, keepdim=True)
    Xi = (x - mean).T @ (x - mean) / K
    diversity = taken(plain(), Function(f, x))[1].mean(0) - taken(plain(), Function(f, mean))[1][0]
    close(diversity, torch.einsum("ijk,jk->i", third, Xi) / 2)


def test_measured_draws_on_a_cubic() -> None:
    """The same with the measured eps: exact for the eps drawn, whose covariance is Xi."""
    f, third = cubic(5)
    x = torch.randn(K, 5, dtype=torch.float64)
    away, steps = x - x.mean(0), range(300)
    z = torch.from_numpy(np.stack([coefficients(K, 7, t) for t in steps]))
    eps = z @ away / math.sqrt(K)
    task = Function(f, x)
    ours = torch.stack([taken(average_direction("measured"), task, t, seed=7)[1] for t in steps])
    expected = [
        taken(plain(), task)[1][k]
        + torch.autograd.functional.hessian(f, x[k]) @ eps.mean(0)
        + torch.einsum("ijk,jk->i", third, eps.T @ eps / len(eps)) / 2
        for k in range(K)
    ]
    close(ours.mean(0), torch.stack(expected))


def test_measured_draws_have_the_covariance_of_the_spread() -> None:
    away = torch.randn(6, 4, dtype=torch.float64)
    away -= away.mean(0)
    z = torch.from_numpy(np.stack([coefficients(6, 0, t) for t in range(4000)]))
    eps = z @ away / math.sqrt(6)
    Xi = away.T @ away / 6
    variance = Xi.square() + Xi.diag()[:, None] * Xi.diag()  # of a product of two Gaussians
    assert ((eps.T @ eps / 4000 - Xi).abs() < 5 * (variance / 4000).sqrt()).all()


def test_equal_workers_measure_no_spread() -> None:
    task = images()
    task.x[:] = task.x[0].clone()
    close(taken(average_direction("measured"), task)[1], by_hand(task, task.x)[1])
