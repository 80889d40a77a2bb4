"""What every task in the folder keeps, with nothing to register: a new file is tested at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from small_tasks import small_options
from torch import nn

from hpc_localsgd.commands.configuration.config import choices
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import Task, TaskContext, TaskSpec
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.formula import Formula

K, B = 4, 6
CONTEXT = TaskContext(workers=K, local_workers=range(K), batch=B, seed=3, dtype=torch.float64)


def variants() -> Iterator[TaskSpec]:
    """Every task of the folder, with every combination of its named choices (Literal fields)."""
    small = small_options()
    for path in choices("task").values():
        module, _, name = path.rpartition(".")
        fixed = small.get(name, {})
        made = [getattr(import_module(module), name)(**fixed)]
        for field, hint in get_type_hints(type(made[0])).items():
            if field not in fixed and get_origin(hint) is Literal:
                made = [
                    replace(spec, **{field: value}) for spec in made for value in get_args(hint)
                ]
        yield from (spec for spec in made if not is_another(spec))


def is_another(spec: TaskSpec) -> bool:
    """Whether a choice changes nothing: of the nets of the digits, one has a norm."""
    return isinstance(spec, digits) and spec.model != "conv" and spec.norm != digits().norm


def title(spec: TaskSpec) -> str:
    """A short name: the task and its named choices."""
    hints = get_type_hints(type(spec))
    named = [str(getattr(spec, f)) for f, hint in hints.items() if get_origin(hint) is Literal]
    return "-".join([type(spec).__name__, *named])


def says_batchnorm(spec: TaskSpec) -> bool:
    """Whether its options ask for BatchNorm."""
    return getattr(spec, "norm", "none") in ("batch", "ghost")


def is_formula(spec: TaskSpec) -> bool:
    """Whether it is no torch module."""
    return issubclass(get_type_hints(type(spec).build)["return"], Formula)


SPECS = list(variants())
every_task = pytest.mark.parametrize("spec", SPECS, ids=title)
MODULES = [spec for spec in SPECS if not is_formula(spec)]
every_module = pytest.mark.parametrize("spec", MODULES, ids=title)


def built(spec: TaskSpec, **changes: Any) -> Any:
    task = spec.build(replace(CONTEXT, **changes))
    task.x[:] = task.init(CONTEXT.seed)
    return task


def moved_apart(task: Any) -> Any:
    """Workers as they are in the middle of a round."""
    stream = torch.Generator().manual_seed(5)
    task.x.add_(torch.randn(task.x.shape, generator=stream, dtype=task.x.dtype), alpha=0.02)
    return task


def of_worker(batch: Any, r: int) -> Any:
    return batch[0][r], batch[1][r]


def has_batchnorm(task: Any) -> bool:
    return bool(task.buffers.numel())


def test_the_folder_holds_tasks_with_and_without_batchnorm() -> None:
    found = [has_batchnorm(built(spec)) for spec in SPECS]
    assert set(found) == {True, False}
    assert found == [says_batchnorm(spec) for spec in SPECS]


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


def batchnorm_by_hand(
    task: Any, x: torch.Tensor, batches: list[Any]
) -> dict[str, list[torch.Tensor]]:
    """Mean over the batches of each batch's own mean and unbiased variance, at every BatchNorm.

    Of a ghost BatchNorm, the mean over the ghost batches of a batch.
    """
    module = copy.deepcopy(task._replicas.modules[0])
    for name, value in task.layout.views(x).items():
        module.get_parameter(name).data = value.clone()
    seen: dict[str, list[torch.Tensor]] = {}

    def look(name: str) -> Any:
        def hook(norm: Any, inputs: tuple[torch.Tensor]) -> None:
            ghosts = inputs[0].split(getattr(norm, "ghost", len(inputs[0])))
            columns = [ghost.transpose(0, 1).flatten(1) for ghost in ghosts]
            mean = torch.stack([c.mean(1) for c in columns]).mean(0)
            var = torch.stack([c.var(1) for c in columns]).mean(0)
            seen.setdefault(f"{name}.running_mean", []).append(mean)
            seen.setdefault(f"{name}.running_var", []).append(var)

        return hook

    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.register_forward_pre_hook(look(name))
    with torch.no_grad():
        for inputs, _ in batches:
            module.train()(inputs)
    return seen


@every_task
def test_statistics_are_a_cumulative_mean_over_the_batches(spec: TaskSpec) -> None:
    task: Task | Any = moved_apart(built(spec))
    if not has_batchnorm(task):
        assert task.statistics(task.x[0], [of_worker(task.batch([0], 0), 0)]).numel() == 0
        return
    task.loss_and_grad(task.x, task.batch(range(K), 0))  # leaves other statistics behind
    batches = [of_worker(task.batch([1], t), 0) for t in range(5)]
    found = task.layout.buffer_views(task.statistics(task.x[1], batches))
    by_hand = batchnorm_by_hand(task, task.x[1], batches)
    assert set(found) == set(by_hand)
    for name, seen in by_hand.items():
        torch.testing.assert_close(found[name], torch.stack(seen).mean(0), rtol=1e-10, atol=1e-12)


@every_module
def test_integer_counters_are_no_buffers_of_a_worker(spec: TaskSpec) -> None:
    task = built(spec)
    counters = [
        name for name, b in task._replicas.modules[0].named_buffers() if not b.is_floating_point()
    ]
    assert bool(counters) == has_batchnorm(task)
    assert not set(counters) & set(task.layout.buffers)
    before = [m.state_dict()[name].item() for m in task._replicas.modules for name in counters]
    task.buffers.fill_(7.0)  # what averaging them does
    after = [m.state_dict()[name].item() for m in task._replicas.modules for name in counters]
    assert before == after == [0] * len(before)


@every_module
def test_weight_decay_takes_matrices_and_filters_only(spec: TaskSpec) -> None:
    task = built(spec)
    named = dict(task._replicas.modules[0].named_parameters())
    decayed = sum(p.numel() for p in named.values() if p.ndim >= 2)
    assert task.decayed == decayed
    assert [named[name].numel() for name in task.layout.names] == list(task.sizes)
    marked = torch.arange(task.dim)[: task.decayed]
    views = task.layout.views(torch.arange(task.dim))
    in_matrices = torch.cat([v.flatten() for n, v in views.items() if named[n].ndim >= 2])
    assert torch.equal(in_matrices, marked)
