"""Mistakes of a loop that would pass in silence: each is refused or warned about, by name."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from loops import attached, everyone_equal, loss_of, net, parameters
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from torch import nn
from torch.nn.utils import prune as pruning

import hpc_localsgd
from hpc_localsgd import LocalSGD, every, post_local
from hpc_localsgd.attach import call_order
from hpc_localsgd.errors import ConfigurationError


def gradient(model: nn.Module, optimizer: torch.optim.Optimizer, t: int) -> None:
    optimizer.zero_grad()
    loss_of(model, 0, t).backward()


@pytest.mark.parametrize("new_optimizer", [False, True])
def test_a_second_attach_is_refused_by_all_until_the_first_has_ended(new_optimizer: bool) -> None:
    """The old hooks went on averaging gradients, so that no round was local."""

    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(schedule=post_local(switch=4, every=4), world=world)
        assert sync.t == 0
        again = torch.optim.SGD(model.parameters(), lr=0.1) if new_optimizer else optimizer
        hpc_localsgd.attach(model, again, schedule=every(4), world=world)

    one, other = errors_on_ranks(2, work)
    assert one == other and "attached already" in one and "sync.detach()" in one


@pytest.mark.parametrize("end", ["finish", "detach"])
def test_a_model_can_be_attached_again_after_the_end(end: str) -> None:
    model, optimizer, sync = attached()
    getattr(sync, end)()
    hpc_localsgd.attach(model, optimizer, schedule=every(4))


def test_a_model_whose_first_attach_nobody_holds_can_be_attached_again() -> None:
    model = net()
    hpc_localsgd.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule=every(4))
    again = torch.optim.SGD(model.parameters(), lr=0.1)
    assert hpc_localsgd.attach(model, again, schedule=every(4)).t == 0


def two_optimizers() -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    model = net()
    halves = (model[0].parameters(), [*model[3].parameters(), *model[4].parameters()])
    return model, [torch.optim.SGD(half, lr=0.05) for half in halves]


@pytest.mark.parametrize("attached_too", [False, True])
def test_parameters_of_a_second_optimizer_are_named(attached_too: bool) -> None:
    model, optimizers = two_optimizers()
    syncs = [
        hpc_localsgd.attach(model, o, schedule=every(2)) for o in optimizers[: 1 + attached_too]
    ]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for t in range(4):
            model.zero_grad()
            loss_of(model, 0, t).backward()
            for optimizer in optimizers:
                optimizer.step()
            for sync in syncs:
                sync.step()
    said = [str(w.message) for w in found if "rounds do not exchange" in str(w.message)]
    assert len(said) == (0 if attached_too else 1)
    assert all("3.weight, 3.bias, 4.weight, 4.bias" in text for text in said)


def test_gradients_that_nobody_uses_are_no_second_optimizer() -> None:
    model, optimizers = two_optimizers()
    sync = hpc_localsgd.attach(model, optimizers[0], schedule=every(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient(model, optimizers[0], 0)
        optimizers[0].step()
        sync.step()


def put_in(model: Any, optimizer: Any) -> None:
    model[4] = nn.Linear(7, 4)
    optimizer.param_groups[0]["params"] = list(model.parameters())


def put_in_alone(model: Any, optimizer: Any) -> None:
    model[4] = nn.Linear(7, 4)


def give_the_optimizer_another(model: Any, optimizer: Any) -> None:
    optimizer.param_groups[0]["params"][-1] = nn.Parameter(torch.zeros(4))


def prune(model: Any, optimizer: Any) -> None:
    pruning.random_unstructured(model[4], "weight", 0.5)


def resize(model: Any, optimizer: Any) -> None:
    model[4].weight = nn.Parameter(torch.zeros(4, 7))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put_in, "the parameter 4.(weight|bias) is another object"),
        (put_in_alone, "the parameter 4.(weight|bias) is another object"),
        (give_the_optimizer_another, "added to the optimizer"),
        (prune, "the parameter 4.weight is another object"),
        (resize, "the parameter 4.weight is another object"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_module_changed_after_attach_is_named_at_the_next_exchange(
    change: Callable[[Any, Any], None], said: str, inside: bool
) -> None:
    model, optimizer, sync = attached(nn.Sequential(net()) if inside else net())
    if inside:
        said = said.replace("parameter 4", "parameter 0.4")
    change(model[0] if inside else model, optimizer)
    with pytest.raises(RuntimeError, match=said):
        for _ in range(3):
            optimizer.step()
            sync.step()


@pytest.mark.parametrize("schedule", [every(1), every(3)], ids=str)
@pytest.mark.parametrize("algorithm", ["local_sgd", "slowmo", "allreduce"])
def test_sync_before_the_optimizer_is_refused(schedule: Any, algorithm: str) -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(schedule=schedule, algorithm=algorithm, world=world)
        gradient(model, optimizer, 0)
        sync.step()
        optimizer.step()

    errors = errors_on_ranks(2, work)
    assert all("sync.step() was called before optimizer.step()" in each for each in errors)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_skipped_step_is_no_wrong_order(set_to_none: bool) -> None:
    model, optimizer, sync = attached()
    for t in range(6):
        optimizer.zero_grad(set_to_none)
        loss_of(model, 0, t).backward()
        if t % 3:
            optimizer.step()
        sync.step()
    optimizer.step(lambda: loss_of(model, 0, 6))
    sync.step()
    assert sync.t == 7


@pytest.mark.parametrize("what", ["averaged", "finish"])
def test_steps_that_were_not_counted_are_refused(what: str) -> None:
    """Both took the ranks for equal, and left each with its own."""
    model, optimizer, sync = attached()
    for t in range(2):
        gradient(model, optimizer, t)
        optimizer.step()
    with pytest.raises(RuntimeError, match=r"after 2 optimizer.step\(\) without sync.step\(\)"):
        if what == "finish":
            sync.finish()
        with sync.averaged():
            pass
    sync.step()
    sync.finish()


PROGRAM = """
import torch, hpc_localsgd
def main():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sync = hpc_localsgd.attach(model, optimizer, schedule=hpc_localsgd.every(2))
    for t in range(4):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        {loop}
    {end}
main()
"""


@pytest.mark.parametrize(
    ("loop", "end", "said"),
    [
        ("t < 3 and sync.step()", "", "without sync.finish(): the model Linear"),
        ("t < 3 and sync.step()", "sync.step(), optimizer.step(), sync.step()", "without sync."),
        ("pass", "", "sync.step() was not called"),
        ("sync.step()", "", ""),
        ("sync.step()", "sync.finish()", ""),
        ("sync.step()", "optimizer.step(); sync.step(); sync.detach()", ""),
    ],
)
def test_a_run_that_was_not_finished_is_said(
    loop: str, end: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_order, "_UNFINISHED", {})
    monkeypatch.delattr(sys, "last_type", raising=False)
    exec(PROGRAM.format(loop=loop, end=end or "pass"), {})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call_order.say_unfinished()
    assert len(found) == bool(said)
    assert all(said in str(w.message) for w in found)


def test_a_program_hears_of_it_at_its_exit_but_not_after_its_own_exception() -> None:
    """Two programs, of which the second is a fork of the first, with its messages in its output."""
    program = "import os, torch, torch._dynamo, hpc_localsgd\n"
    program += "if not (second := os.fork()): os.dup2(1, 2)\n"
    end = "if not second: raise ValueError('mine')"
    program += PROGRAM.format(loop="t < 3 and sync.step()", end=end)
    program += "assert os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) == 1\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, env=os.environ
    )
    assert done.returncode == 0 and "ends without sync.finish()" in done.stderr, done.stderr
    assert "ValueError: mine" in done.stdout and "sync.finish()" not in done.stdout, done.stdout


@pytest.mark.parametrize("algorithm", [LocalSGD(), "slowmo"])
def test_rates_that_drift_apart_are_said_once(algorithm: Any) -> None:
    """As ReduceLROnPlateau makes them, where each rank gives it its own loss."""

    def work(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(
            net(), schedule=every(2), world=world, algorithm=algorithm
        )
        for t in range(6):
            optimizer.param_groups[0]["lr"] = 0.05 if t < 2 else 0.05 / (1 + world.rank)
            gradient(model, optimizer, t)
            optimizer.step()
            sync.step()
        sync.finish()
        return parameters(model)

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        everyone_equal(on_ranks(2, work))
    said = [str(w.message) for w in found if "learning rate" in str(w.message)]
    assert len(said) == 1 and "step 2 is 0.05 on rank 0 and 0.025 on rank 1" in said[0]
    assert "ReduceLROnPlateau" in said[0]


def test_a_refused_attach_leaves_the_model_free() -> None:
    model, optimizer, sync = attached()
    with pytest.raises(ConfigurationError, match="attached already"):
        hpc_localsgd.attach(model, optimizer, schedule=every(2))
    sync.finish()
    hpc_localsgd.attach(model, optimizer, schedule=every(2)).detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["step", "averaged", "finish"])
def test_numbers_that_are_not_finite_go_into_nobodys_average(
    where: str, bad: float, dtype: torch.dtype
) -> None:
    finite = {}

    def work(world: ThreadWorld) -> None:
        model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(2), world=world)
        optimizer.step()
        sync.step()
        if world.rank == 1:
            with torch.no_grad():
                model[1].weight[0, 1] = bad
        try:
            if where == "step":
                optimizer.step()
                sync.step()
            elif where == "averaged":
                with sync.averaged():
                    raise AssertionError("shown")
            sync.finish()
        finally:
            finite[world.rank] = bool(parameters(model).isfinite().all())

    one, other = errors_on_ranks(2, work)
    assert (
        one == other
        and "the parameters or statistics of rank 1 (1 of 2 ranks) are not finite" in one
    )
    assert finite == {0: True, 1: False}
