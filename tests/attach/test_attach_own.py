"""One's own buffers, kept while the mean model is in their place: what comes back, what stays."""

from __future__ import annotations

import pytest
import torch
from rank_threads import ThreadWorld, on_ranks
from torch import nn

import hpc_localsgd
from hpc_localsgd import every
from hpc_localsgd.attach.backup import BufferBackup


def holder() -> nn.Module:
    """Three buffers in the order of their names: a cache, a mask that is saved, a table."""
    model = nn.Module()
    model.register_buffer("cache", torch.ones(2), persistent=False)
    model.register_buffer("mask", torch.ones(2))
    model.register_buffer("table", torch.ones(2))
    return model


def test_what_was_changed_in_place_comes_back() -> None:
    model = holder()
    kept = BufferBackup(model)
    for buffer in model.buffers():
        buffer.zero_()
    kept.restore()
    assert all((buffer == 1).all() for buffer in model.buffers())


def test_a_cache_that_was_made_again_stays_and_what_is_saved_is_put_back_where_it_was() -> None:
    """What follows a cache in the order of names comes back all the same."""
    model = holder()
    kept, mask = BufferBackup(model), model.mask
    model.cache, model.mask = torch.full((2,), 5.0), torch.full((2,), 5.0)
    model.table.zero_()
    kept.restore()
    assert (model.cache == 5).all()
    assert model.mask is mask and (model.mask == 1).all()
    assert (model.table == 1).all()


def test_what_has_another_size_since_or_is_gone_is_left_as_it_is() -> None:
    model = holder()
    kept = BufferBackup(model)
    model.cache, model.mask = torch.full((4,), 5.0), None
    model.table.zero_()
    kept.restore()
    assert model.cache.tolist() == [5.0] * 4 and model.mask is None
    assert (model.table == 1).all()


def test_one_that_grew_in_place_is_left_as_it_is() -> None:
    model = holder()
    kept = BufferBackup(model)
    model.mask.resize_(3).fill_(5.0)
    kept.restore()
    assert model.mask.tolist() == [5.0] * 3


def test_some_are_left_out_when_asked() -> None:
    model = holder()
    kept = BufferBackup(model, but=[model.mask])
    for buffer in model.buffers():
        buffer.zero_()
    kept.restore()
    assert [int(buffer[0]) for buffer in model.buffers()] == [1, 0, 1]


def test_quarantine_leaves_alone_what_has_no_finite_numbers_to_have() -> None:
    """Whole numbers, nothing at all, what is sparse, and what has no memory."""

    def work(world: ThreadWorld) -> nn.Module:
        model = nn.Linear(2, 1)
        with torch.no_grad():
            model.weight.fill_(0.5), model.bias.fill_(0.0)
        model.register_buffer("count", torch.tensor([3]), persistent=False)
        model.register_buffer("empty", torch.zeros(0), persistent=False)
        for name, value in {
            "rows": torch.eye(2).to_sparse(),
            "shape": torch.zeros(3, device="meta"),
        }.items():
            model.register_parameter(name, nn.Parameter(value, requires_grad=False))
        trained = [model.weight, model.bias]
        optimizer = torch.optim.SGD(trained, lr=0.1)
        sync = hpc_localsgd.attach(
            model, optimizer, schedule=every(2), world=world, on_nan="quarantine", steps=2
        )
        model.count += world.rank
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(1, 2) * (float("nan") if world.rank else 1.0)).sum().backward()
            optimizer.step()
            sync.step()
        return model

    with pytest.warns(UserWarning, match="numbers of rank 1 are not finite"):
        healthy, sick = on_ranks(2, work)
    assert torch.equal(healthy.weight, sick.weight) and sick.weight.isfinite().all()
    assert [int(model.count) for model in (healthy, sick)] == [3, 4]
