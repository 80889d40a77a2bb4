"""Batches as loaders give them, from which statistics are estimated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loops import attached, parameters
from rank_threads import ThreadWorld, errors_on_ranks
from rows import batches, train
from torch import nn


class Named(dict):  # type: ignore[type-arg]
    """As a transformers' BatchEncoding."""


CALLS: dict[str, tuple[Any, Any]] = {
    "a tensor": (lambda x: x, None),
    "a pair": (lambda x: (x, 0), None),
    "a list": (lambda x: [x, 0], None),
    "a dict": (lambda x: {"x": x}, lambda model, batch: model(batch["x"])),
    "two inputs": (lambda x: (x, 1, 2), lambda model, batch: model(batch[0] * batch[1])),
    "nested": (lambda x: {"in": ({"x": [x]},)}, lambda model, b: model(b["in"][0]["x"][0])),
}


@pytest.mark.parametrize("kind", CALLS)
def test_batches_as_loaders_give_them(kind: str) -> None:
    make, forward = CALLS[kind]
    model = nn.Sequential(nn.BatchNorm1d(4))
    _, _, sync = attached(model)
    with sync.averaged(batches=[make(x) for x in batches(0)], forward=forward):
        shown = model[0].running_mean.clone()
    torch.testing.assert_close(shown, torch.stack(batches(0)).mean((0, 1)))
    sync.finish(batches=[make(x) for x in batches(0)], forward=forward)
    torch.testing.assert_close(model[0].running_mean, shown)


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"x": torch.ones(6, 4)}, "with a dict"),
        (Named(x=torch.ones(6, 4)), "with a Named"),
        ((torch.arange(6), torch.ones(6, 4)), "first element of a tuple"),
        ((), "a tuple"),
        ("text", "a str"),
    ],
)
def test_batches_that_say_not_how_to_call_the_model(
    batch: Any, said: str, at_the_end: bool
) -> None:
    def work(world: ThreadWorld) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 3)
        own = torch.cat([parameters(model), model[1].running_mean])
        given = [batch] if world.rank else batches(0)  # one rank's alone
        try:
            if at_the_end:
                sync.finish(batches=given)
            else:
                with sync.averaged(batches=given):
                    pass
        finally:
            now = torch.cat([parameters(model), model[1].running_mean])
            assert torch.equal(now, own) and model[1].momentum == 0.1 and model[1].training

    told, named = errors_on_ranks(2, work)
    assert said in named and "forward=lambda model, batch" in named, named
    assert "rank 1 could not" in told


def test_an_exception_of_ones_own_forward_is_ones_own() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    _, _, sync = attached(model)
    with (
        pytest.raises(ZeroDivisionError),
        sync.averaged(batches=batches(0), forward=lambda model, batch: 1 / 0),
    ):
        pass
    with sync.averaged(batches=batches(0)):  # it can be entered again
        assert model[0].running_mean.any()
