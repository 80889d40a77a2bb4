"""Buffers of every kind: caches, masks, sparse ones, statistics, and those named to be averaged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from loops import attached, everyone_equal, parameters
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from rows import train
from torch import nn

from hpc_localsgd.errors import ConfigurationError


class Rotary(nn.Module):
    """A cache that grows with the longest sequence that was met."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.grow(6)

    def grow(self, n: int) -> None:
        self.n = n
        cos = torch.arange(float(n))[:, None].mul(torch.ones(4)).cos()
        self.register_buffer("cos", cos, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.n:
            self.grow(len(x))
        return self.linear(x * self.cos[: len(x)])


@pytest.mark.parametrize("differs", ["before attach", "in training", "inside averaged()"])
def test_a_cache_is_left_alone_however_it_grows(differs: str) -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = Rotary()
        if differs == "before attach":
            model.grow(7 + world.rank)
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 4)
        if differs == "in training":
            model(torch.ones(10 + 3 * world.rank, 4))
        with sync.averaged():
            if differs == "inside averaged()":
                model(torch.ones(30, 4))
        model(torch.ones(model.n, 4))  # what the module remembers of its cache is true of it
        train(model, optimizer, sync, world.rank, 2)
        sync.finish()
        return parameters(model)

    everyone_equal(on_ranks(2, work))


def with_buffer(value: torch.Tensor, name: str = "thing", persistent: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_buffer(name, value, persistent=persistent)
    return model


OTHER_BUFFERS: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "sparse rows": lambda: torch.eye(4).to_sparse_csr(),
    "expanded": lambda: torch.arange(4.0).expand(3, 4),
    "a mask": lambda: torch.tensor([True, False]),
    "a number": lambda: torch.tensor(2.5),
    "nothing": lambda: torch.zeros(0, 3),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "half": lambda: torch.ones(3, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("policy", ["reestimate", "average", "local"])
@pytest.mark.parametrize("kind", OTHER_BUFFERS)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_buffers_of_every_kind_come_through(kind: str, policy: str) -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = with_buffer(OTHER_BUFFERS[kind]())
        _, optimizer, sync = attached(model, world=world, batchnorm=policy)
        train(model, optimizer, sync, world.rank, 4)
        with sync.averaged():
            pass
        train(model, optimizer, sync, world.rank, 1)
        sync.finish()
        now, then = model[0].thing.to_dense(), OTHER_BUFFERS[kind]().to_dense()
        assert torch.equal(now, then) and model[0].thing.layout == OTHER_BUFFERS[kind]().layout
        return parameters(model)

    everyone_equal(on_ranks(2, work))


@pytest.mark.parametrize("kind", [k for k in OTHER_BUFFERS if k[:6] != "sparse"])
def test_a_saved_buffer_that_is_no_statistic_is_rank_0s_at_the_end(kind: str) -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = with_buffer(OTHER_BUFFERS[kind]())
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 2)
        model[0].thing = own = ~model[0].thing if kind == "a mask" else model[0].thing + world.rank
        own = own.clone()
        with sync.averaged():
            shown = model[0].thing.clone()
        assert torch.equal(model[0].thing, own)
        sync.finish()
        assert torch.equal(model[0].thing, shown)
        return shown

    everyone_equal(on_ranks(2, work))


def test_a_sparse_buffer_that_differs_is_refused_at_attach() -> None:
    def work(world: ThreadWorld) -> None:
        attached(with_buffer((torch.eye(4) * (1 + world.rank)).to_sparse()), world=world)

    one, other = errors_on_ranks(2, work)
    assert one == other and "buffer 0.thing [4, 4] torch.float32 sparse_coo with checksum" in one


def test_statistics_of_two_shapes_are_refused_by_name_with_both() -> None:
    def work(world: ThreadWorld) -> None:
        model = with_buffer(torch.ones(3), "running_range")
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 4)
        own = parameters(model)
        model[0].running_range = torch.ones(3 + 2 * world.rank)
        try:
            with sync.averaged():
                raise AssertionError("shown")
        finally:
            assert torch.equal(parameters(model), own)

    one, other = errors_on_ranks(2, work)
    assert one == other
    assert "running statistic 0.running_range cannot be averaged: rank 0 has" in one
    assert "[3]" in one and "[5]" in one


def test_a_saved_buffer_of_two_shapes_stays_each_ranks_own_with_a_word() -> None:
    def work(world: ThreadWorld) -> list[str]:
        import warnings

        model = with_buffer(torch.ones(3))
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 1)
        model[0].thing = torch.ones(3 + world.rank)
        if world.rank == 0:  # warnings are caught for the whole process
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                sync.finish()
            found = [str(w.message) for w in said]
        else:
            sync.finish()
            found = []
        assert len(model[0].thing) == 3 + world.rank
        return found

    said, nothing = on_ranks(2, work)
    assert nothing == [] and any("0.thing" in text and "other shapes" in text for text in said)


def test_named_buffers_are_averaged() -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = with_buffer(torch.zeros(2), "codebook")
        _, optimizer, sync = attached(model, world=world, averaged_buffers=["*.codebook"])
        train(model, optimizer, sync, world.rank, 1)
        model[0].codebook += world.rank
        sync.finish()
        return model[0].codebook

    assert everyone_equal(on_ranks(2, work)).tolist() == [0.5, 0.5]
    for wrong, said in ((["*.cdebook"], "has 0.codebook"), ("codebook", "write a list")):
        with pytest.raises(ConfigurationError, match=said):
            attached(with_buffer(torch.zeros(2), "codebook"), averaged_buffers=wrong)
