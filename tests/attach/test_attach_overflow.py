"""Steps that a GradScaler leaves out since gradients overflow, on one rank or on all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from loops import attached, everyone_equal, loss_of, parameters, steps
from rank_threads import ThreadWorld, on_ranks
from torch import nn

from hpc_localsgd import AllReduce, GradientTracking, every, post_local
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.attach import Sync
from hpc_localsgd.compressors import Int8, PowerSGD, Sign
from hpc_localsgd.schedules.local_steps import Schedule


def overflowing_steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, sync: Sync, ts: Iterable[int], rank: int
) -> None:
    """The loop of a user with a GradScaler; the loss of rank 1 overflows at t = 2."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for t in ts:
        optimizer.zero_grad()
        overflow = float("inf") if (rank, t) == (1, 2) else 1.0
        scaler.scale(loss_of(model, rank, t) * overflow).backward()
        scaler.step(optimizer)
        scaler.update()
        sync.step()


@pytest.mark.parametrize("schedule", [every(1), every(2), post_local(switch=2, every=2)])
def test_a_step_skipped_by_a_gradscaler_desynchronises_nobody(schedule: Schedule) -> None:
    """Rank 1's loss overflows at steps 1 and 2; with H = 1 that is an overflow of all."""

    def work(world: ThreadWorld) -> tuple[torch.Tensor, int]:
        model, optimizer, sync = attached(world=world, schedule=schedule)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        taken = []
        optimizer.register_step_post_hook(lambda *_: taken.append(sync.t))
        for t in range(6):
            optimizer.zero_grad()
            loss = loss_of(model, world.rank, t)
            if world.rank == 1 and t in (1, 2):
                loss = loss * float("inf")
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            sync.step()
        sync.finish()
        assert parameters(model).isfinite().all()
        return parameters(model), len(taken)

    results = on_ranks(2, work)
    everyone_equal([p for p, _ in results])
    skipped = {1: (4, 4), 2: (6, 4)}.get(schedule(0, 0.0) if schedule != every(2) else 2, (5, 4))
    taken = tuple(n for _, n in results)
    assert taken == ((5, 4) if isinstance(schedule, post_local) else skipped)


@pytest.mark.parametrize("algorithm", [GradientTracking(), AllReduce(compressor=Int8())], ids=repr)
def test_an_algorithm_that_remembers_gradients_gets_them_once_and_unscaled(
    algorithm: Algorithm,
) -> None:
    options = {"schedule": every(1), "algorithm": algorithm}

    def plainly(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, **options)
        steps(model, optimizer, sync, range(5), world.rank)
        return parameters(model)

    def scaled_in_two_parts(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        for t in range(5):
            optimizer.zero_grad()
            for _ in range(2):
                scaler.scale(loss_of(model, world.rank, t) / 2).backward()
            scaler.step(optimizer)
            scaler.update()
            sync.step()
        return parameters(model)

    expected = on_ranks(3, plainly)
    for x, y in zip(expected, on_ranks(3, scaled_in_two_parts), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_an_overflow_on_one_rank_does_not_spoil_the_tracked_gradient() -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(
            world=world, schedule=every(1), algorithm=GradientTracking()
        )
        overflowing_steps(model, optimizer, sync, range(5), world.rank)
        sync.finish()
        return parameters(model)

    assert everyone_equal(on_ranks(2, work)).isfinite().all()


@pytest.mark.parametrize("codec", [Int8(), Sign(), PowerSGD(rank=1)], ids=repr)
def test_an_overflow_on_one_rank_is_a_step_that_no_rank_takes_where_gradients_are_coded(
    codec: Any,
) -> None:
    """Nor does the codec's memory know of it."""

    def work(world: ThreadWorld, ts: list[int]) -> torch.Tensor:
        algorithm = AllReduce(compressor=codec)
        model, optimizer, sync = attached(world=world, schedule=every(1), algorithm=algorithm)
        overflowing_steps(model, optimizer, sync, ts, world.rank)
        return parameters(model)

    with_overflow = everyone_equal(on_ranks(2, lambda world: work(world, [0, 1, 2, 3, 4])))
    without = on_ranks(2, lambda world: work(world, [0, 1, 3, 4]))[0]
    torch.testing.assert_close(with_overflow, without, rtol=1e-6, atol=1e-7)
