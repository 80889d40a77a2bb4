"""What is given to attach: names, classes, things in each other's place, wrapped models, rates."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from loops import attached, net
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from torch import nn

import hpc_localsgd
from hpc_localsgd import AllReduce, EDiT, Gossip, LocalSGD, every, post_local, qsr
from hpc_localsgd.attach.checks import check_types
from hpc_localsgd.compressors import Sign
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import doubling
from hpc_localsgd.topology import complete, ring


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"algorithm": "local_sgd"}, {"algorithm": LocalSGD()}),
        ({"algorithm": "LocalSGD"}, {"algorithm": LocalSGD()}),
        ({"algorithm": AllReduce}, {"algorithm": AllReduce()}),
        ({"algorithm": LocalSGD(compressor="sign")}, {"algorithm": LocalSGD(compressor=Sign())}),
        ({"algorithm": LocalSGD(compressor=Sign)}, {"algorithm": LocalSGD(compressor=Sign())}),
        ({"algorithm": Gossip(topology="ring")}, {"algorithm": Gossip(topology=ring())}),
        ({"algorithm": Gossip(topology="complete")}, {"algorithm": Gossip(topology=complete())}),
        ({"schedule": "qsr"}, {"schedule": qsr()}),
        ({"schedule": "every"}, {"schedule": every()}),
        ({"schedule": every}, {"schedule": every()}),
    ],
    ids=str,
)
def test_names_and_classes_are_what_they_name(given: Any, meant: Any) -> None:
    _, _, one = attached(**given)
    _, _, other = attached(**meant)
    assert repr(one) == repr(other)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"algorithm": "lokal_sgd"}, r"did you mean 'local_sgd'\? \(allreduce, choco"),
        ({"algorithm": "sign"}, "unknown algorithm 'sign'"),
        ({"algorithm": every(4)}, r"is a schedule: write schedule=every\(steps=4\)"),
        ({"schedule": LocalSGD()}, r"is an algorithm: write algorithm=LocalSGD\("),
        ({"schedule": "qrs"}, r"did you mean 'qsr'\?"),
        ({"schedule": 16}, r"write schedule=every\(16\)"),
        ({"schedule": None}, r"not a schedule: write schedule=every\(16\)"),
        ({"schedule": "post_local"}, "give steps="),
        ({"schedule": doubling()}, "give steps="),
        ({"algorithm": LocalSGD(compressor="zip")}, "unknown compressor 'zip'"),
        ({"algorithm": LocalSGD(compressor=ring())}, r"is a topology: write topology=ring"),
        ({"algorithm": Gossip(topology=3)}, "not a topology: write topology=a name of"),
        ({"algorithm": 3}, r"not an algorithm: write algorithm=LocalSGD\(\)"),
        ({"batchnorm": "mean"}, "write one of 'reestimate', 'average', 'local'"),
    ],
    ids=str,
)
def test_what_is_none_of_them_gets_a_sentence(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        attached(**given)


def test_model_and_optimizer_in_each_others_place() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for wrong, said in (
        ((optimizer, model), "the model comes first"),
        ((list(model.parameters()), optimizer), "given a list for the model"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            hpc_localsgd.attach(*wrong, schedule=every(2))


class ZeroRedundancyOptimizer(torch.optim.SGD):
    """Torch's, as far as its name tells."""


def test_an_optimizer_that_sends_parameters_by_itself_is_refused() -> None:
    model = net()
    with pytest.raises(ConfigurationError, match="sends parameters at every step by itself"):
        hpc_localsgd.attach(model, ZeroRedundancyOptimizer(model.parameters()), schedule=every(2))


class DistributedDataParallel(nn.Module):
    """Another library's of the same name, and the same fault."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class FullyShardedDataParallel(nn.Linear):
    """Torch's older sharding, as far as its name tells."""


class Task(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.net = inside


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (nn.DataParallel, "the model is a DataParallel"),
        (DistributedDataParallel, "the model is a DistributedDataParallel"),
        (lambda m: Task(nn.DataParallel(m)), "model.net is a DataParallel"),
        (lambda m: torch.compile(DistributedDataParallel(m)), "model._orig_mod is a Distributed"),
        (lambda m: nn.Sequential(m, FullyShardedDataParallel(2, 2)), "model.1 is a FullySharded"),
        # Linear, not m: torch.jit takes an object for an operator when it lies where an operator
        # lay that torch.compile has dropped, and a convolution holds a list that may lie there
        (lambda m: nn.Sequential(m, torch.jit.script(nn.Linear(2, 2))), "model.1 is of torch.jit"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_wrapper_is_found_wherever_it_is(wrap: Any, said: str) -> None:
    model = wrap(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match=said):
        check_types(model, optimizer)


WARM_UPS = {
    "from 0": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: min(1.0, t / 9)),
    "nearly 0": lambda o: torch.optim.lr_scheduler.LinearLR(o, 1e-3, total_iters=9),
    "from a third": lambda o: torch.optim.lr_scheduler.LinearLR(o, total_iters=9),
}


def ends_of(schedule: Any, rates: Sequence[float], scheduler_first: bool = False) -> list[int]:
    """Where rounds end at these learning rates, on two ranks alike."""

    def work(world: ThreadWorld) -> list[int]:
        _, optimizer, sync = attached(world=world, schedule=schedule)
        group, ends = optimizer.param_groups[0], []
        for rate, after in zip(rates, [*rates[1:], rates[-1]], strict=True):
            group["lr"] = rate
            optimizer.step()
            if scheduler_first:
                group["lr"] = after
            if sync.step():
                ends.append(sync.t)
        return ends

    one, other = on_ranks(2, work)
    assert one == other
    return one


UP = [0.1 * t / 8 for t in range(8)]  # as transformers' schedules begin
WARMING = {
    "from 0": ([*UP, *[0.1] * 20], 2),
    "nearly 0": ([1e-4, *UP[1:], *[0.1] * 20], 2),
    "from a third": ([0.03 + 0.07 * t / 8 for t in range(8)] + [0.1] * 20, 2),
    "once an epoch, from 0": ([0.0] * 6 + [0.05] * 6 + [0.1] * 30, 2),
    "once an epoch, from a fifth": ([0.02] * 6 + [0.04] * 6 + [0.1] * 30, 7),  # to the first rise
}


@pytest.mark.filterwarnings("ignore:after . local steps all ranks hold the same parameters")
@pytest.mark.parametrize("scheduler_first", [False, True])
@pytest.mark.parametrize(("rates", "first"), WARMING.values(), ids=WARMING)
def test_qsr_sees_a_warm_up_and_exchanges_in_it(
    rates: list[float], first: int, scheduler_first: bool
) -> None:
    """A rate that begins at 0 gave a first round of 2^31 steps, and no exchange ever."""
    ends = ends_of(qsr(alpha=0.2, at_least=2), rates, scheduler_first)
    lengths = np.diff([0, *ends]).tolist()
    assert lengths[0] == first - (scheduler_first and first > 2)
    assert lengths[1:4] == [2, 2, 2] and lengths[-1] == 4, lengths  # (0.2 / 0.1)^2 at the peak
    assert set(lengths[1:]) == {2, 4}, lengths


@pytest.mark.filterwarnings("ignore:after . local steps all ranks hold the same parameters")
def test_after_the_warm_up_the_rule_is_what_it_is_without_one() -> None:
    down = [0.1 * 0.9**t for t in range(40)]
    told, seen = (
        ends_of(qsr(alpha=0.2, at_least=4, warmup=w), [*UP, *down], True) for w in (8, None)
    )
    assert told == seen == [4, 8, 12, 21]


def test_a_warm_up_is_gone_on_with_after_a_resume() -> None:
    """The round that begins at t = 4 is in the warm-up, whoever begins it."""
    options: dict[str, Any] = {"schedule": qsr(alpha=0.2, at_least=4)}
    model, optimizer, sync = attached(**options)
    again = attached(model=net(), **options)
    for rate in UP[:4]:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        sync.step()
    for part, state in zip(again, (model, optimizer, sync), strict=True):
        part.load_state_dict(copy.deepcopy(state.state_dict()))
    _, optimizer, sync = again
    for rate in UP[4:]:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        ended = sync.step()
    assert ended and sync.t == 8


def test_qsr_with_a_warm_up_exchanges_in_it() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = WARM_UPS["from 0"](optimizer)
    schedule = qsr(alpha=0.2, at_least=4, warmup=9)
    _, _, sync = model, optimizer, hpc_localsgd.attach(model, optimizer, schedule=schedule)
    ends = []
    for _ in range(20):
        optimizer.step()
        if sync.step():
            ends.append(sync.t)
        scheduler.step()
    assert ends == [4, 8, 12, 16, 20]


def test_a_rate_that_falls_and_rises_again_is_no_warm_up() -> None:
    _, optimizer, sync = attached(schedule=qsr(alpha=0.1, at_least=2))
    for rate in (0.05, 0.05, 0.04, 0.03, 0.05, 0.05, 0.05):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        sync.step()
    assert sync.t == 7


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (lambda t, lr: 5000, ["round 0 has H = 5000 steps at the learning rate 0.05: the next"]),
        (qsr(alpha=5, at_least=2), ["round 0 has H = 10000 steps"]),
        (qsr(alpha=0.1, at_least=2), []),
        (every(10**6), []),
        (post_local(switch=0, every=10**6), []),
    ],
)
def test_a_long_round_is_said_at_its_start(schedule: Any, said: list[str]) -> None:
    _, optimizer, sync = attached(schedule=schedule)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.step()
            sync.step()
    # Not of what another test has left behind, and is collected here.
    heard = [str(w.message) for w in found if w.category is UserWarning]
    assert len(heard) == len(said)
    assert all(text in message for text, message in zip(said, heard, strict=True))


@pytest.mark.parametrize("given", [10.5, "10", True, 0, -3])
@pytest.mark.parametrize("name", ["steps", "bucket_bytes"])
def test_counts_are_whole_numbers(name: str, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is {given!r}: give a whole number"):
        attached(**{name: given})


def test_a_count_that_is_wrong_on_one_rank_is_refused_on_all() -> None:
    def work(world: ThreadWorld) -> None:
        attached(world=world, steps=4 if world.rank else 0)

    one, other = errors_on_ranks(2, work)
    assert "steps is 0: give a whole number" in one and "steps is 0" in other


def test_edit_refuses_parameters_that_are_exchanged_in_several_parts() -> None:
    """Each part would have lengths of its own, and a worker be out in one and not in another."""

    def work(world: ThreadWorld) -> str:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1).bfloat16())
        attached_to = partial(
            hpc_localsgd.attach,
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            schedule=every(2),
            world=world,
        )
        with pytest.raises(ConfigurationError) as error:
            attached_to(algorithm=EDiT())
        attached_to(algorithm=LocalSGD()).detach()
        return str(error.value)

    said = on_ranks(2, work)
    assert said[0] == said[1] and "several kinds (torch.bfloat16 on cpu, torch.float32" in said[0]
