"""What ranks must agree on is an error on all of them, and never a hang."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from loops import (
    OPTIMIZERS,
    attached,
    loss_of,
    net,
    parameters,
    steps,
)
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from torch import nn

import hpc_localsgd
from hpc_localsgd import (
    DiLoCo,
    LocalSGD,
    every,
    qsr,
)
from hpc_localsgd.worlds import version_check


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda r: (nn.Linear(3, 2 + r), {}), "parameter weight [2, 3] torch.float32 trained"),
        (lambda r: (nn.Linear(3, 2, bias=r == 0), {}), "parameter bias [2] torch.float32 trained"),
        (lambda r: (nn.Linear(3, 2).to([torch.float32, torch.float64][r]), {}), "torch.float64"),
        (lambda r: (nn.Linear(3, 2), {"schedule": every(2 + r)}), "every(steps=3)"),
        (lambda r: (nn.Linear(3, 2), {"algorithm": [LocalSGD(), DiLoCo()][r]}), "DiLoCo("),
        (lambda r: (nn.Linear(3, 2), {"steps": r + 1}), "rank 0 has 1, rank 1 has 2"),
        (lambda r: (nn.Sequential(*[nn.Linear(1, 1)] * r), {}), "the optimizer trains no"),
    ],
)
def test_ranks_that_differ_are_told_the_first_difference(make: Any, said: str) -> None:
    def work(world: ThreadWorld) -> None:
        model, options = make(world.rank)
        parameters = list(model.parameters()) or [nn.Parameter(torch.ones(1), requires_grad=False)]
        if not list(model.parameters()):
            model.register_parameter("frozen", parameters[0])
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        hpc_localsgd.attach(model, optimizer, **{"schedule": every(2), "world": world} | options)

    one, other = errors_on_ranks(2, work)
    assert one == other and said in one, one


def test_ranks_that_run_another_copy_of_the_package_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank = threading.local()
    monkeypatch.setattr(version_check, "package_digest", lambda: f"copy {rank.of}")

    def work(world: ThreadWorld) -> None:
        rank.of = world.rank
        attached(world=world)

    for said in errors_on_ranks(2, work):
        assert "rank 1 on " in said and "the code of hpc_localsgd is copy 1" in said


def test_a_learning_rate_that_differs_at_attach_is_named() -> None:
    def work(world: ThreadWorld) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * (1 + world.rank))
        hpc_localsgd.attach(model, optimizer, schedule=every(2), world=world)

    one, other = errors_on_ranks(2, work)
    assert one == other and "rank 1 has optimizer group 0 with lr=0.2" in one


def test_a_schedule_of_the_rate_with_different_rates_is_an_error_on_all() -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=qsr(alpha=0.2, at_least=2))
        for t in range(60):
            steps(model, optimizer, sync, [t], world.rank)
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + t + world.rank)

    one, other = errors_on_ranks(2, work)
    assert one == other
    assert "learning rate of step 16 is 0.003125 on rank 0 and 0.00294117647 on rank 1" in one


def test_the_quadratic_rule_follows_the_optimizers_rate() -> None:
    def work(world: ThreadWorld) -> list[int]:
        model, optimizer, sync = attached(world=world, schedule=qsr(alpha=0.1, at_least=2))
        ends = []
        for t in range(40):
            loss_of(model, world.rank, t).backward()
            optimizer.step()
            if sync.step():
                ends.append(sync.t)
                optimizer.param_groups[0]["lr"] *= 0.5
        return ends

    assert on_ranks(2, work) == [[4, 20]] * 2  # (0.1 / 0.05)^2 and (0.1 / 0.025)^2


def test_ranks_with_different_numbers_of_batches_stop_with_an_error() -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=every(5))
        steps(model, optimizer, sync, range(9 + 2 * world.rank), world.rank)
        sync.finish()

    one, other = errors_on_ranks(2, work)
    assert one == other
    assert "rank 0 ends a round of steps 5 to 8, rank 1 one of 5 to 9" in one
    assert "drop_last" in one


def test_everyone_starts_with_rank_0s_model_and_on_request_its_optimizer() -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, dict[str, Any]]:
        model = net(world.rank, norm=True)
        model[0].bias.requires_grad_(False)
        optimizer = OPTIMIZERS["adam"](model.parameters())
        if world.rank == 0:
            steps(model, optimizer, None, range(3))
            optimizer.param_groups[0]["lr"] = 0.007
        hpc_localsgd.attach(
            model, optimizer, schedule=every(2), world=world, broadcast_optimizer=True
        )
        assert int(model[1].num_batches_tracked) == 3
        steps(model, optimizer, None, range(1))
        return torch.cat([parameters(model), model[1].running_var]), optimizer.state_dict()

    (x0, o0), (x1, o1) = on_ranks(2, work)
    assert torch.equal(x0, x1) and o1["param_groups"][0]["lr"] == 0.007
    last = max(o0["state"])
    assert torch.equal(o0["state"][last]["exp_avg"], o1["state"][last]["exp_avg"])


def test_optimizer_states_that_differ_are_an_error() -> None:
    def work(world: ThreadWorld) -> None:
        model = net()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        steps(model, optimizer, None, range(1), world.rank)
        hpc_localsgd.attach(model, optimizer, schedule=every(1), world=world)

    one, other = errors_on_ranks(2, work)
    assert one == other and "optimizer state momentum_buffer of parameter 0" in one
    assert "broadcast_optimizer=True" in one
