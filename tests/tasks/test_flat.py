"""Modules whose parameters and buffers are not simply all different and all trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.flat import Replicas
from hpc_localsgd.tasks.layout import Layout

CPU, R, B = torch.device("cpu"), 3, 5
P = 4 * 4 + 4 + 4 * 4 + 2 * 4 + 2  # of `Odd`: the tied matrix once, the frozen ones not at all


class Odd(nn.Module):
    """Tied matrices, a frozen matrix and a frozen vector, and a buffer that two modules share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.free = nn.Linear(4, 4, bias=False)
        self.last = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 2)
        self.last.weight = self.first.weight
        scale = torch.ones(4)
        self.first.register_buffer("scale", scale)
        self.free.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.frozen(torch.tanh(self.first(x) * self.first.scale)))
        return self.head(self.last(self.free(hidden) * self.free.scale))


def odd(vmapped: bool = False, dtype: torch.dtype = torch.float64) -> Replicas:
    torch.manual_seed(0)
    made = Replicas(Odd(), R, nn.functional.cross_entropy, CPU, dtype, vmapped)
    noise = torch.randn(made.x.shape, generator=torch.Generator().manual_seed(1))
    made.x.add_(noise, alpha=0.1)
    return made


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(2)
    inputs = torch.randn(R, B, 4, generator=stream, dtype=torch.float64)
    return inputs, torch.randint(2, (R, B), generator=stream)


def test_tied_parameters_are_in_the_vector_once_and_frozen_ones_not_at_all() -> None:
    layout = odd().layout
    assert sum(layout.sizes) == P
    assert set(layout.names) == {
        "first.weight",
        "first.bias",
        "free.weight",
        "head.weight",
        "head.bias",
    }
    assert layout.decayed == P - 4 - 2


def test_every_copy_stays_tied_and_shares_what_is_frozen() -> None:
    made = odd()
    modules: list[Any] = made.modules
    for r, module in enumerate(modules):
        assert module.first.weight is module.last.weight
        assert made.x[r].data_ptr() <= module.last.weight.data_ptr() < made.x[r].data_ptr() + 8 * P
        assert module.frozen.weight is modules[0].frozen.weight
        assert module.frozen.weight.dtype == torch.float64
        assert not module.frozen.weight.requires_grad
    assert modules[0].first.weight is not modules[1].first.weight


@pytest.mark.parametrize("vmapped", [False, True])
def test_the_gradient_is_that_of_the_module_alone(vmapped: bool) -> None:
    made = odd(vmapped)
    inputs, targets = batch()
    losses, g = made.loss_and_grad(inputs, targets)
    for r in range(R):
        torch.manual_seed(0)
        alone = Odd().double()
        named = dict(alone.named_parameters())
        for name, value in made.layout.views(made.x[r]).items():
            named[name].data = value.clone()
        loss = nn.functional.cross_entropy(alone(inputs[r]), targets[r])
        loss.backward()
        flat = torch.cat([named[name].grad.reshape(-1) for name in made.layout.names])
        torch.testing.assert_close(losses[r], loss.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(g[r], flat, rtol=1e-10, atol=1e-14)


def test_frozen_parameters_are_left_as_they_were() -> None:
    made = odd()
    torch.manual_seed(0)
    before = Odd().double().frozen
    for _ in range(2):
        made.loss_and_grad(*batch())
        made.x.sub_(made.g)
    frozen: Any = made.modules[1].frozen
    assert torch.equal(frozen.weight, before.weight) and frozen.weight.grad is None


def test_a_shared_buffer_stays_shared() -> None:
    made = odd(dtype=torch.float32)  # torch itself parts them when it converts them
    assert made.layout.buffers == ("first.scale",)
    made.buffers[1] = 3.0
    module: Any = made.modules[1]
    assert module.free.scale is module.first.scale
    assert module.free.scale.eq(3.0).all()
    other: Any = made.modules[0]
    assert other.free.scale.eq(1.0).all()


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nothing to train"):
        Layout.of(nn.Linear(2, 2).requires_grad_(False))


class Branching(nn.Module):
    """Looks at its numbers to decide what to do, which vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x if x.sum() > 0 else -x)


def test_a_module_that_vmap_cannot_run_goes_through_the_loop() -> None:
    torch.manual_seed(0)
    made = Branching()
    loss = nn.functional.cross_entropy
    chosen = Replicas(made, R, loss, CPU, torch.float64)
    looped = Replicas(made, R, loss, CPU, torch.float64, vmapped=False)
    assert chosen.vmapped
    batch = torch.randn(R, B, 4, dtype=torch.float64), torch.randint(2, (R, B))
    assert torch.equal(chosen.loss_and_grad(*batch)[1], looped.loss_and_grad(*batch)[1])
    assert not chosen.vmapped
