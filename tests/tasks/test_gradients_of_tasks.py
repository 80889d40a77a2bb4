"""Gradients of every task: the slope of its loss, worker by worker, and nothing else is changed."""

from __future__ import annotations

import pytest
import torch
from folder_of_tasks import (
    MODULES,
    SPECS,
    K,
    built,
    every_task,
    moved_apart,
    of_worker,
    says_batchnorm,
    title,
)

from hpc_localsgd.tasks.base import TaskSpec


# In training BatchNorm uses the batch, in `loss` its running statistics.
@pytest.mark.parametrize("spec", [s for s in SPECS if not says_batchnorm(s)], ids=title)
def test_the_gradient_is_that_of_the_loss(spec: TaskSpec) -> None:
    task = moved_apart(built(spec))
    batch = task.batch(range(K), 0)
    losses, g = task.loss_and_grad(task.x, batch)
    for r in range(K):
        x = task.x[r].clone().requires_grad_()
        loss = task.loss(x, of_worker(batch, r))
        (gradient,) = torch.autograd.grad(loss, x)
        assert losses[r].item() == pytest.approx(loss.item(), rel=1e-12)
        torch.testing.assert_close(g[r], gradient, rtol=1e-10, atol=1e-13)
        assert gradient.norm() > 1e-3


@every_task
def test_the_gradient_is_the_slope_of_the_training_loss(spec: TaskSpec) -> None:
    """Central differences along the gradient: holds with BatchNorm in training mode too."""
    task = moved_apart(built(spec))
    batch = task.batch(range(K), 0)
    _, g = task.loss_and_grad(task.x, batch)
    x, direction = task.x.clone(), g / g.norm(dim=1, keepdim=True)
    slope, h = g.norm(dim=1), 1e-5
    up, _ = task.loss_and_grad(x + h * direction, batch)
    down, _ = task.loss_and_grad(x - h * direction, batch)
    # ReLU and pooling have kinks, so not to the last digit.
    torch.testing.assert_close((up - down) / (2 * h), slope, rtol=1e-3, atol=1e-6)


@every_task
def test_all_workers_at_once_equal_each_alone(spec: TaskSpec) -> None:
    """Whatever way the task chose for R > 1 (vmap or a loop), against R = 1."""
    together = moved_apart(built(spec))
    losses, g = together.loss_and_grad(together.x, together.batch(range(K), 1))
    for k in range(K):
        single = built(spec, local_workers=[k])
        single.x[:] = together.x[k]
        loss, gradient = single.loss_and_grad(single.x, single.batch([k], 1))
        torch.testing.assert_close(loss[0], losses[k], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient[0], g[k], rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(single.buffers[0], together.buffers[k], rtol=1e-12, atol=0)


@pytest.mark.parametrize("spec", [s for s in MODULES if not says_batchnorm(s)], ids=title)
def test_vmap_equals_the_loop(spec: TaskSpec) -> None:
    task = moved_apart(built(spec))
    batch = task.batch(range(K), 2)
    task._replicas.vmapped = False
    losses, g = (part.clone() for part in task.loss_and_grad(task.x, batch))
    task._replicas.vmapped = True
    same_losses, same_g = task.loss_and_grad(task.x, batch)
    torch.testing.assert_close(same_losses, losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(same_g, g, rtol=1e-10, atol=1e-13)


@every_task
def test_storage_is_stable_and_neither_x_nor_the_batch_is_changed(spec: TaskSpec) -> None:
    task = moved_apart(built(spec))
    places = [task.x.data_ptr(), task.buffers.data_ptr()]
    x, batch = task.x.clone(), task.batch(range(K), 0)
    kept = tuple(part.clone() for part in batch)
    _, g = task.loss_and_grad(task.x, batch)
    gradients = {g.data_ptr()}
    for t in range(3):
        gradients.add(task.loss_and_grad(task.x, task.batch(range(K), t))[1].data_ptr())
    task.evaluate(task.x[0], "test", range(10), task.buffers[0])
    task.statistics(task.x[0], [of_worker(batch, 0)])
    task.loss(task.x[0], of_worker(batch, 0))
    assert [task.x.data_ptr(), task.buffers.data_ptr()] == places
    assert len(gradients) == 1
    assert torch.equal(task.x, x)
    assert all(torch.equal(a, b) for a, b in zip(batch, kept, strict=True))
