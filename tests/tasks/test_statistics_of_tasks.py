"""Running statistics, counters and decayed parameters of every task that is a torch module."""

from __future__ import annotations

import copy
from typing import Any

import torch
from folder_of_tasks import (
    SPECS,
    K,
    built,
    every_module,
    every_task,
    has_batchnorm,
    moved_apart,
    of_worker,
    says_batchnorm,
)
from torch import nn

from hpc_localsgd.tasks.base import Task, TaskSpec


def test_the_folder_holds_tasks_with_and_without_batchnorm() -> None:
    found = [has_batchnorm(built(spec)) for spec in SPECS]
    assert set(found) == {True, False}
    assert found == [says_batchnorm(spec) for spec in SPECS]


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
