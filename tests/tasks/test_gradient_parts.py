"""Parts of a gradient begun while backward runs: what, when, and in which order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.gradient_parts import GradientParts

WIDE, NARROW = 40, 8


class Halved:
    """An average with somebody whose gradient is zero, and a diary."""

    def __init__(self, diary: list[Any]) -> None:
        self.diary = diary

    def __call__(self, part: torch.Tensor) -> Halved:
        self.diary.append((part.storage_offset(), part.shape[1]))
        self.part, began = part, part.clone()
        return _Begun(part, began)  # type: ignore[return-value]


class _Begun:
    def __init__(self, part: torch.Tensor, began: torch.Tensor) -> None:
        self.part, self.began = part, began

    def wait(self) -> torch.Tensor:
        assert torch.equal(self.part, self.began), "changed while it was under way"
        return self.part.mul_(0.5)[0]


def task_of(unused: bool = False) -> Classification:
    def make() -> nn.Module:
        layers = [nn.Linear(6, WIDE), nn.Tanh(), nn.Linear(WIDE, NARROW), nn.Tanh()]
        module = nn.Sequential(*layers, nn.Linear(NARROW, 3))
        if unused:
            module.register_parameter("aside", nn.Parameter(torch.ones(WIDE, WIDE)))
        return module

    rng = torch.Generator().manual_seed(1)
    data = torch.randn(20, 6, generator=rng).numpy(), torch.arange(20).numpy() % 3
    return Classification(make, {"train": data}, TaskContext(batch=5))


@pytest.mark.parametrize("unused", [False, True])
@pytest.mark.parametrize("part_bytes", [1, 4 * WIDE, 4 * WIDE * NARROW, 10**9])
def test_every_number_is_averaged_once(
    part_bytes: int, unused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, plain = task_of(unused), task_of(unused)
    monkeypatch.setattr(
        "hpc_localsgd.tasks.gradient_parts.GradientParts.__init__.__defaults__", (part_bytes,)
    )
    batch = plain.batch([0], 0)
    for _ in range(2):
        diary: list[Any] = []
        loss, g = task.loss_and_mean_grad(task.x, batch, Halved(diary))
        expected_loss, expected = plain.loss_and_grad(plain.x, batch)
        torch.testing.assert_close(g, expected / 2, rtol=0, atol=0)
        assert torch.equal(loss, expected_loss)
        covered = sorted(i for begin, n in diary for i in range(begin, begin + n))
        assert covered == list(range(task.dim))
    assert (len(diary) == 1) == (part_bytes == 10**9)


def test_a_part_is_begun_before_the_first_layer_has_its_gradient() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    first, last = module[0].weight, module[2].weight
    parameters = [first, last, module[0].bias, module[2].bias]
    g = torch.zeros(1, sum(p.numel() for p in parameters))
    for parameter, window in zip(parameters, g[0].split([16, 16, 4, 4]), strict=True):
        parameter.grad = window.view(parameter.shape)
    diary: list[Any] = []
    first.register_post_accumulate_grad_hook(lambda _: diary.append("first layer"))
    parts = GradientParts(parameters, matrices=2, g=g, part_bytes=1)
    with parts.averaged(Halved(diary)):
        module(torch.ones(2, 4)).square().sum().backward()
    assert diary == [(16, 16), "first layer", (0, 16), (32, 8)]


def test_outside_of_it_nothing_is_begun() -> None:
    task = task_of()
    diary: list[Any] = []
    task.loss_and_mean_grad(task.x, task.batch([0], 0), Halved(diary))
    count = len(diary)
    task.loss_and_grad(task.x, task.batch([0], 1))
    assert len(diary) == count
