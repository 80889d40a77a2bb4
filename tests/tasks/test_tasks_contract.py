"""What every task in the folder keeps, with nothing to register: a new file is tested at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from folder_of_tasks import B, K, built, every_task, of_worker

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskSpec
from hpc_localsgd.tasks.formula import Formula


@every_task
def test_shapes_and_sizes_agree(spec: TaskSpec) -> None:
    task = built(spec)
    assert task.x.shape == (K, task.dim) == (K, sum(task.sizes))
    assert task.buffers.shape[0] == K
    assert 0 <= task.decayed <= task.dim
    assert set(task.splits) >= {"train", "test"}
    assert task.partition.samples == task.splits["train"]
    assert task.x.dtype == task.buffers.dtype == torch.float64


@every_task
def test_a_batch_depends_on_seed_worker_and_step_only(spec: TaskSpec) -> None:
    task, alone = built(spec), built(spec, local_workers=[2])
    inputs, targets = task.batch(range(K), 5)
    assert inputs.shape[:2] == targets.shape[:2] == (K, B)
    task.loss_and_grad(task.x, task.batch(range(K), 6))
    for seen in (task.batch([2], 5), alone.batch([2], 5)):
        assert torch.equal(seen[0][0], inputs[2])
        assert torch.equal(seen[1][0], targets[2])
    for other in (task.batch([2], 6), task.batch([1], 5), built(spec, seed=4).batch([2], 5)):
        assert not torch.equal(other[0][0], inputs[2])


@every_task
@pytest.mark.parametrize("division", ["disjoint", "dirichlet:5"])
def test_shards_are_refused_or_the_same_for_every_rank(spec: TaskSpec, division: str) -> None:
    """What a worker sees is of its own shard, however many workers a process has."""
    try:
        task = built(spec, shards=division)
    except ConfigurationError as error:
        assert isinstance(built(spec), Formula) or "type disjoint" in str(error)
        return
    alone, inputs = built(spec, shards=division, local_workers=[2]), task.batch(range(K), 5)[0]
    assert torch.equal(alone.batch([2], 5)[0][0], inputs[2])
    own = task.partition.shards
    assert sorted(np.concatenate(own).tolist()) == list(range(task.splits["train"]))
    used = [np.concatenate([task.partition.indices(k, t) for t in range(9)]) for k in range(K)]
    assert all(set(used[k].tolist()) <= set(own[k].tolist()) for k in range(K))
    assert not torch.equal(task.batch(range(K), 5)[0], built(spec).batch(range(K), 5)[0])


@every_task
def test_undisturbed_batches_are_those_of_the_task_without_augmentation_and_noise(
    spec: TaskSpec,
) -> None:
    disturbed = {"label_noise": 0.5, "mixup": 0.4}
    spec = replace(spec, **{k: v for k, v in disturbed.items() if hasattr(spec, k)})
    task, plain = built(spec), built(spec.undisturbed())
    for worker, t in ((2, 5), (0, 0)):
        inputs, targets = task.undisturbed(worker, t)
        wanted = plain.batch([worker], t)
        assert torch.equal(inputs, wanted[0][0])
        assert torch.equal(targets, wanted[1][0])


@every_task
def test_initial_parameters_depend_on_the_seed_only_and_leave_random_numbers_alone(
    spec: TaskSpec,
) -> None:
    task = built(spec)
    before = torch.get_rng_state()
    x = task.init(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, built(spec, local_workers=[1], seed=9).init(1))
    assert not torch.equal(x, task.init(2))
    assert x.shape == (task.dim,)


@every_task
def test_measuring_does_not_change_training(spec: TaskSpec) -> None:
    def second_step(measured: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        task = built(spec)
        task.loss_and_grad(task.x, task.batch(range(K), 0))
        if measured:
            elsewhere = torch.zeros(task.dim, dtype=task.x.dtype)
            task.evaluate(elsewhere, "test", range(10), task.buffers[0])
            task.statistics(elsewhere, [of_worker(task.batch([0], 0), 0)])
            task.loss(elsewhere, of_worker(task.batch([0], 0), 0))
        losses, g = task.loss_and_grad(task.x, task.batch(range(K), 1))
        return losses, g.clone(), task.buffers.clone()

    for a, b in zip(second_step(False), second_step(True), strict=True):
        assert torch.equal(a, b)


@every_task
def test_an_evaluation_in_shares_sums_to_the_whole(spec: TaskSpec) -> None:
    task = built(spec)
    n = task.splits["test"]
    cuts = [0, 1, n // 3, n // 3, n]  # one share is empty
    shares = [
        task.evaluate(task.x[0], "test", range(a, b), task.buffers[0])
        for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    whole = task.evaluate(task.x[0], "test", range(n), task.buffers[0])
    torch.testing.assert_close(sum(shares), whole, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert whole[2] == n
    assert 0 <= whole[1] <= n or (isinstance(task, Formula) and whole[1].isnan())
    assert whole[0] > 0


@every_task
def test_training_learns(spec: TaskSpec) -> None:
    """A gradient of the wrong sign, data or labels would not."""
    task = built(spec)
    n = min(300, task.splits["train"])

    def mean_loss() -> float:
        stats = task.statistics(task.x[0], [of_worker(task.batch([0], t), 0) for t in range(8)])
        return float(task.evaluate(task.x[0], "train", range(n), stats)[0] / n)

    before = mean_loss()
    mean = task.x[0].clone()
    adam = torch.optim.Adam([mean], lr=0.01)
    for t in range(60):
        _, g = task.loss_and_grad(task.x, task.batch(range(K), t))
        mean.grad = g.mean(0)
        adam.step()
        task.x[:] = mean
        if t % 10 == 9 and mean_loss() < 0.9 * before:
            return
    pytest.fail(f"the loss was {before}, and is {mean_loss()}")
