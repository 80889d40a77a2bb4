"""The table of docs/migrating.md: every row is tried, on two ranks that differ."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from launching import ROOT
from loops import everyone_equal
from rank_threads import ThreadWorld, on_ranks
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import hpc_localsgd
from hpc_localsgd import every
from hpc_localsgd.errors import ConfigurationError

REFUSED = "refused"


@dataclass(frozen=True)
class Row:
    """A layer 4 -> 4 with the thing in question, and how to write and read it."""

    make: Callable[[], nn.Module]
    put: Callable[[nn.Module, float], None] = lambda layer, value: None
    get: Callable[[nn.Module], torch.Tensor] = lambda layer: layer.thing
    given: dict[str, Any] = field(default_factory=dict)
    batches: bool = False


class Linear(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)


def layer(thing: Any, persistent: bool = True) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        made = Linear()
        if isinstance(thing, nn.Parameter):
            made.thing = nn.Parameter(thing.detach().clone(), thing.requires_grad)
        elif isinstance(thing, torch.Tensor):
            made.register_buffer("thing", thing.clone(), persistent=persistent)
        return made

    return make


def fill(layer: Any, value: float) -> None:
    layer.thing.fill_(value)


def anew(layer: Any, value: float) -> None:
    layer.thing = torch.full((int(value),), value)


def sparse(layer: Any, value: float) -> None:
    layer.thing = (torch.eye(4) * value).to_sparse()


def statistic(policy: str, batches: bool = False) -> Row:
    return Row(
        lambda: nn.BatchNorm1d(4),
        lambda norm, value: norm.running_mean.fill_(value),
        lambda norm: norm.running_mean,
        {"batchnorm": policy},
        batches,
    )


def direction(layer: Any, value: float) -> None:
    u = layer.parametrizations.weight[0]._u
    u.zero_()
    u[int(value)] = 1


ROWS = {
    "a parameter that the optimizer trains": Row(layer(nn.Parameter(torch.zeros(3))), fill),
    "a parameter without gradient (a teacher)": Row(
        layer(nn.Parameter(torch.zeros(3), requires_grad=False)), fill
    ),
    'a running statistic, `"reestimate"`, with `batches=`': statistic("reestimate", batches=True),
    'a running statistic, `"reestimate"`, without': statistic("reestimate"),
    'a running statistic, `"average"`': statistic("average"),
    'a running statistic, `"local"`': statistic("local"),
    "a buffer named in `averaged_buffers=`": Row(
        layer(torch.zeros(3)), fill, given={"averaged_buffers": ["*thing"]}
    ),
    "another saved buffer of real numbers": Row(layer(torch.zeros(3)), fill),
    "a saved buffer of integers (a counter, a mask)": Row(
        layer(torch.zeros(3, dtype=torch.int64)), fill
    ),
    "the vectors of `spectral_norm`": Row(
        lambda: spectral_norm(Linear()), direction, lambda m: m.parametrizations.weight[0]._u
    ),
    "a cache (`persistent=False`)": Row(layer(torch.zeros(3), persistent=False), fill),
    "a saved buffer of other shapes on other ranks": Row(layer(torch.zeros(3)), anew),
    "a sparse buffer that changes after attach": Row(
        layer(torch.eye(4).to_sparse()), sparse, lambda m: m.thing.to_dense()
    ),
    "a complex or lazy parameter that is trained": Row(
        layer(nn.Parameter(torch.zeros(3, dtype=torch.complex64)))
    ),
    "DDP, FSDP1 or DataParallel, at the top or below": Row(lambda: nn.DataParallel(Linear())),
}


def table() -> dict[str, tuple[str, ...]]:
    page = (ROOT / "docs" / "migrating.md").read_text()
    section = page.split("## What attach does with your module")[1].split("\n## ")[0]
    cells = [re.split(r"\s*\|\s*", line)[1:-1] for line in section.splitlines() if line[:1] == "|"]
    return {kind: tuple(said) for kind, *said in cells[2:]}


def test_every_row_is_tried() -> None:
    assert list(table()) == list(ROWS)


def word_for(own: list[torch.Tensor], now: list[torch.Tensor]) -> str:
    """Say in the table's words what the ranks hold now of what each wrote."""
    if all(torch.equal(a, b) for a, b in zip(own, now, strict=True)):
        return "each its own"
    everyone_equal(now)
    if torch.equal(now[0], own[0]):
        return "rank 0's"
    mean = sum(x.double() for x in own) / len(own)
    return "the mean" if torch.equal(now[0].double(), mean) else "computed for the mean"


def history(row: Row, world: ThreadWorld) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What this rank wrote and holds: at a round's end, in averaged(), after finish()."""
    torch.manual_seed(0)
    model = nn.Sequential(row.make())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sync = hpc_localsgd.attach(model, optimizer, schedule=every(2), world=world, **row.given)
    batches = [torch.randn(6, 4) for _ in range(2)] if row.batches else None
    found = []

    def step() -> torch.Tensor:
        with torch.no_grad():
            row.put(model[0], 1.0 + world.rank)
        own = row.get(model[0]).detach().clone()
        optimizer.step()
        sync.step()
        return own

    step()
    found.append((step(), row.get(model[0]).detach().clone()))
    own = step()
    with sync.averaged(batches):
        found.append((own, row.get(model[0]).detach().clone()))
    assert torch.equal(row.get(model[0]), own)
    sync.finish(batches)
    return [*found, (own, row.get(model[0]).detach().clone())]


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_is_true(kind: str) -> None:
    row, said = ROWS[kind], table()[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of statistics without batches, shapes that differ
        if REFUSED in said:
            with pytest.raises(ConfigurationError):
                on_ranks(2, lambda world: history(row, world))
            assert set(said) == {REFUSED}
            return
        ranks = on_ranks(2, lambda world: history(row, world))
    words = []
    for moment in range(3):
        own, now = zip(*(rank[moment] for rank in ranks), strict=True)
        words.append(word_for(list(own), list(now)))
    assert tuple(words) == said


def test_an_ema_that_is_updated_at_rounds_ends_is_the_same_on_all_ranks() -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        torch.manual_seed(0)
        model = Linear()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(2), world=world)
        ema = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9**2)
        )
        for t in range(6):
            optimizer.zero_grad()
            model(torch.full((1, 4), 1.0 + t + world.rank)).square().sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            if sync.step():
                ema.update_parameters(model)
        assert not torch.equal(ema.module.weight, model.weight)
        return ema.module.weight.detach().clone()

    everyone_equal(on_ranks(2, work))
