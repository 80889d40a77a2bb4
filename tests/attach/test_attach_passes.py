"""Backward passes that fail, batches that are left out, and gradients that a loop keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from loops import attached, batch, everyone_equal, in_plain_torch, loss_of, net, parameters, steps
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from torch import nn

import hpc_localsgd
from hpc_localsgd import every, post_local

AVERAGED = {0: 1, 1: 1, 2: 1, 3: 1}  # rounds of one step


class OutOfMemory(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")


def repeating(model: nn.Module, optimizer: Any, sync: Any, ts: range, rank: int) -> None:
    """A loop that repeats a step where memory was short, on rank 1 in the middle of backward."""
    for t in ts:
        for short in (rank == 1 and t == 2, False):
            optimizer.zero_grad()
            x, y = batch(rank, t)
            h = model[:4](x)
            try:
                (model[4](OutOfMemory.apply(h) if short else h) - y).square().mean().backward()
                break
            except RuntimeError as error:
                if "out of memory" not in str(error):
                    raise
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        sync.step()


def test_a_backward_pass_that_failed_can_be_repeated() -> None:
    """What is clipped is the average of the second attempt, as on the rank that had one."""

    def work(world: ThreadWorld, loop: Callable[..., None]) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, schedule=every(1))
        loop(model, optimizer, sync, range(4), world.rank)
        return parameters(model)

    def clipped(model: nn.Module, optimizer: Any, sync: Any, ts: range, rank: int) -> None:
        norm = nn.utils.clip_grad_norm_
        optimizer.register_step_pre_hook(lambda *_: norm(model.parameters(), 0.1) and None)
        steps(model, optimizer, sync, ts, rank)

    ours = everyone_equal(on_ranks(2, lambda world: work(world, repeating)))
    plain = everyone_equal(on_ranks(2, lambda world: work(world, clipped)))
    torch.testing.assert_close(ours, plain)


def test_one_of_which_a_part_was_sent_cannot() -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=every(1), bucket_bytes=8)
        repeating(model, optimizer, sync, range(4), world.rank)

    with pytest.raises(RuntimeError, match="write `with sync.no_sync"):
        on_ranks(2, work)


def left_out(world: ThreadWorld, zeroed: bool, stepped: bool) -> torch.Tensor:
    model, optimizer, sync = attached(world=world, schedule=every(1))
    for t in range(4):
        optimizer.zero_grad(set_to_none=not zeroed)
        if world.rank == 0 or t != 2:
            loss_of(model, world.rank, t).backward()
        if world.rank == 0 or t != 2 or stepped:
            optimizer.step()
        sync.step()
    return parameters(model)


@pytest.mark.parametrize("zeroed", [False, True])
def test_a_batch_left_out_without_the_step_of_all_is_an_error(zeroed: bool) -> None:
    """Its loss is not finite, say: the rank would stay behind by a step of the others."""
    everyone_equal(on_ranks(2, lambda world: left_out(world, zeroed, stepped=True)))
    with pytest.raises(RuntimeError, match=r"call optimizer.step\(\) all the same"):
        on_ranks(2, lambda world: left_out(world, zeroed, stepped=False))


def test_a_step_that_all_leave_out_is_none() -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=every(1))
        sync.step()
        steps(model, optimizer, sync, range(2), world.rank)

    on_ranks(2, work)


def test_a_step_that_one_rank_leaves_out_after_backward_is_said_when_local_rounds_begin() -> None:
    """Its own loss is too high, say: the first average of parameters would hide that it strayed."""

    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=post_local(switch=3, every=2))
        for t in range(6):
            optimizer.zero_grad()
            loss_of(model, world.rank, t).backward()
            if (world.rank, t) != (1, 1):
                optimizer.step()
            sync.step()

    with pytest.warns(UserWarning, match=r"or optimizer.step\(\) left out on one"):
        on_ranks(2, work)


AS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "itself": lambda g: g,
    "detached": lambda g: g.detach(),
    "a view": lambda g: g.view(-1),
}


@pytest.mark.parametrize("how", AS)
def test_a_gradient_that_is_kept_stays_what_it_was(how: str) -> None:
    """Of the loss before, where `zero_grad` has set `p.grad` to None: plain torch makes a new."""

    def work(world: ThreadWorld) -> list[torch.Tensor]:
        model, optimizer, sync = attached(world=world, schedule=every(1), bucket_bytes=64)
        kept, copied = [], []
        for t in range(4):
            optimizer.zero_grad()
            loss_of(model, world.rank, t).backward()
            kept += [AS[how](p.grad) for p in model.parameters()]
            copied += [AS[how](p.grad.clone()) for p in model.parameters()]
            optimizer.step()
            sync.step()
        assert all(map(torch.equal, kept, copied))
        return [parameters(model)]

    (ours,), _ = on_ranks(2, work)
    torch.testing.assert_close(ours, in_plain_torch(2, 4, AVERAGED), rtol=1e-5, atol=1e-6)


def test_memory_of_gradients_that_nobody_keeps_is_used_again() -> None:
    def work(world: ThreadWorld) -> set[tuple[int, ...]]:
        model, optimizer, sync = attached(world=world, schedule=every(1), bucket_bytes=64)
        places = set()
        for t in range(4):
            steps(model, optimizer, sync, [t], world.rank)
            places.add(tuple(p.grad.data_ptr() for p in model.parameters()))
        return places

    assert [len(places) for places in on_ranks(2, work)] == [1, 1]


@pytest.mark.parametrize("how", ["averaged", "finish"])
def test_parameters_moved_to_other_memory_are_not_shown_as_the_mean(how: str) -> None:
    """As the mean that was written to the old memory: each rank would evaluate its own."""

    def work(world: ThreadWorld) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        sync = hpc_localsgd.attach(
            model, optimizer, algorithm="gossip", schedule=every(1), world=world
        )
        steps(model, optimizer, sync, range(2), world.rank)
        model.half()
        if how == "finish":
            sync.finish()
        else:
            with sync.averaged():
                pass

    said = errors_on_ranks(2, work)
    assert all("0.weight was moved to other memory after attach" in each for each in said)


def test_two_optimizers_of_one_model_end_in_the_middle_of_a_round_without_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Muon for matrices and AdamW for the rest, say; the first to finish has ended already."""

    def work(world: ThreadWorld) -> torch.Tensor:
        model = net()
        groups = [[p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False)]
        made = [torch.optim.SGD(group, lr=0.05) for group in groups]
        syncs = [hpc_localsgd.attach(model, o, schedule=every(3), world=world) for o in made]
        for t in range(2):
            model.zero_grad()
            loss_of(model, world.rank, t).backward()
            for optimizer, sync in zip(made, syncs, strict=True):
                optimizer.step()
                sync.step()
        for sync in syncs:
            sync.finish()
        return parameters(model)

    everyone_equal(on_ranks(2, work))
    assert not [w for w in recwarn if "rounds do not exchange" in str(w.message)]
