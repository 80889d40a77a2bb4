"""Rounds on several workers. The ranks are threads of this process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from loops import (
    OPTIMIZERS,
    POST_LOCAL_4_3,
    attached,
    batch,
    everyone_equal,
    in_plain_torch,
    loss_of,
    net,
    of_the_folder,
    parameters,
    schedule_for,
    steps,
)
from rank_threads import ThreadWorld, on_ranks
from small_runs import go, quadratic, small_run
from torch import nn

import hpc_localsgd
from hpc_localsgd import (
    Gossip,
    StreamingDiLoCo,
    every,
    post_local,
)
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.attach.storage import Group
from hpc_localsgd.attach.sync import Sync

POST_LOCAL = post_local(switch=4, every=3)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_post_local_sgd_equals_a_plain_loop(optimizer: str, K: int, set_to_none: bool) -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model, made, sync = attached(None, optimizer, world, schedule=POST_LOCAL, bucket_bytes=64)
        for t in range(11):
            made.zero_grad(set_to_none=set_to_none)
            loss_of(model, world.rank, t).backward()
            made.step()
            sync.step()
        sync.finish()
        return parameters(model)

    ours = everyone_equal(on_ranks(K, work))
    plain = in_plain_torch(K, 11, POST_LOCAL_4_3, optimizer)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


class OneVector(nn.Module):
    """The quadratic's parameters as a user's model."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((dim,), 1.0, dtype=torch.float64))


@pytest.mark.parametrize("algorithm", of_the_folder(), ids=lambda a: repr(a).replace(" ", ""))
def test_every_algorithm_gives_the_numbers_of_our_own_loop(algorithm: Algorithm) -> None:
    spec = quadratic(h=(1.0, 2.0, 0.5, 1.5), c=(1.0, -1.0, 0.5, 3.0), noise=0.1, dim=5)
    run = small_run(spec=spec, K=4, H=schedule_for(algorithm), steps=14, algorithm=algorithm)
    p, _ = go(run)
    expected = algorithm.readout(p.x, p.state, run.world)
    own = small_run(spec=spec, K=4)

    def work(world: ThreadWorld) -> tuple[torch.Tensor, int]:
        model = OneVector(5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sync = hpc_localsgd.attach(
            model,
            optimizer,
            algorithm=algorithm,
            schedule=schedule_for(algorithm),
            world=world,
            steps=14,
        )
        h, c = spec.h[world.rank], spec.c[world.rank]
        for t in range(14):
            noise = own.task.batch(range(4), t)[0][world.rank]
            optimizer.zero_grad()
            (0.5 * h * (model.w - c) ** 2 + noise * model.w).sum().backward()
            optimizer.step()
            sync.step()
        sync.finish()
        return model.w.detach().clone(), sync.ledger.rounds

    results = on_ranks(4, work)
    torch.testing.assert_close(everyone_equal([w for w, _ in results]), expected)
    assert results[0][1] == run.steps if schedule_for(algorithm) == every(1) else 6


def test_steps_are_counted_not_micro_batches_and_accumulation_is_right() -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, list[bool], int]:
        model, optimizer, sync = attached(world=world, schedule=post_local(switch=2, every=2))
        ended = []
        for t in range(6):
            optimizer.zero_grad()
            x, y = batch(world.rank, t)
            with sync.no_sync():
                ((model(x[:3]) - y[:3]).square().mean() / 2).backward()
            ((model(x[3:]) - y[3:]).square().mean() / 2).backward()
            optimizer.step()
            ended.append(sync.step())
        return parameters(model), ended, len([e for e in world.log if e[0] == "begin_average"])

    results = on_ranks(2, work)
    ours = everyone_equal([p for p, _, _ in results])
    plain = in_plain_torch(2, 6, {0: 1, 1: 1, 2: 2, 4: 2})
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    assert results[0][1:] == ([True, True, False, True, False, True], 2)


@pytest.mark.parametrize("last", [nullcontext, Sync.no_sync], ids=["exchanged", "under no_sync"])
def test_each_half_is_averaged_however_the_last_pass_is_made(
    last: Callable[[Sync], AbstractContextManager[Any]],
) -> None:
    """A last pass under `no_sync`, after the one that exchanges, is a slip, and no drift."""

    def work(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, schedule=every(1))
        for t in range(3):
            optimizer.zero_grad()
            x, y = batch(world.rank, t)
            ((model(x[:3]) - y[:3]).square().mean() / 2).backward()
            with last(sync):
                ((model(x[3:]) - y[3:]).square().mean() / 2).backward()
            optimizer.step()
            sync.step()
        return parameters(model)

    plain = in_plain_torch(2, 3, {0: 1, 1: 1, 2: 1})
    torch.testing.assert_close(everyone_equal(on_ranks(2, work)), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:after . local steps all ranks hold the same parameters")
def test_a_skipped_step_at_the_beginning_of_a_round_does_not_change_its_rate() -> None:
    rates: list[float] = []

    def rule(t: int, lr: float) -> int:
        rates.append(lr)
        return 2

    def work(world: ThreadWorld) -> None:
        _, optimizer, sync = attached(world=world, schedule=rule)
        for t in range(4):
            if not (world.rank == 0 and t == 2):  # skipped, as a GradScaler does
                optimizer.step()
            optimizer.param_groups[0]["lr"] *= 0.5
            sync.step()

    on_ranks(2, work)
    assert rates == [0.05, 0.05, 0.0125, 0.0125]


def test_a_closure_trains_in_rounds_of_one_step() -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = net()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2, max_eval=2)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(1), world=world)
        for t in range(3):

            def closure(t: int = t) -> torch.Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, world.rank, t)
                loss.backward()
                return loss

            optimizer.step(closure)
            sync.step()
        return parameters(model)

    everyone_equal(on_ranks(2, work))


def test_the_users_autocast_is_not_for_averages() -> None:
    """Within it a product with the mixing matrix would be rounded to 8 bits."""

    def work(world: ThreadWorld) -> tuple[torch.Tensor, torch.Tensor]:
        model, optimizer, sync = attached(world=world, algorithm=Gossip(), schedule=every(1))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for t in range(2):
                optimizer.zero_grad()
                loss_of(model, world.rank, t).backward()
                optimizer.step()
                before = parameters(model)
                sync.step()
        return before, parameters(model)

    found = on_ranks(3, work)
    mean = torch.stack([before for before, _ in found]).mean(0)
    for _, after in found:  # a ring of three is complete
        torch.testing.assert_close(after, mean, rtol=1e-6, atol=1e-7)


def test_a_streaming_exchange_touches_the_parameters_only_where_it_lands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half precision would be converted to float32 and back at every step."""
    algorithm = StreamingDiLoCo(fragments=2, delay=3)
    model, optimizer, sync = attached(algorithm=algorithm, schedule=every(5))
    touched = []
    rows = Group.rows

    def watched(group: Group) -> Any:
        touched.append(sync.t)
        return rows(group)

    monkeypatch.setattr(Group, "rows", watched)
    steps(model, optimizer, sync, range(14))
    assert touched == [5, 8, 10, 13]


def test_a_pass_of_another_loss_between_the_steps_exchanges_nothing_more() -> None:
    """A generator's backward pass reaches the discriminator, whose optimiser has stepped."""

    def work(world: ThreadWorld) -> int:
        model, optimizer, sync = attached(world=world, schedule=every(1))
        for t in range(3):
            optimizer.zero_grad()
            loss_of(model, world.rank, t).backward()
            optimizer.step()
            with sync.no_sync():
                loss_of(model, world.rank, t).backward()
            sync.step()
        return len([e for e in world.log if e[0] == "begin_average"])

    assert on_ranks(2, work) == [3, 3]
