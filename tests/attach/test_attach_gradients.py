"""Rounds of one step: gradients averaged in buckets during backward. Ranks are threads."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from loops import (
    OPTIMIZERS,
    attached,
    batch,
    everyone_equal,
    loss_of,
    net,
    parameters,
    steps,
)
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from torch import nn
from torch.utils.checkpoint import checkpoint

import hpc_localsgd
from hpc_localsgd import AllReduce, GradientTracking, every, post_local
from hpc_localsgd.compressors import Sign
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import Schedule
from hpc_localsgd.tasks.fragments import cuts_from_the_end


def test_buckets_are_averaged_during_backward_in_one_order_whatever_order_gradients_come_in() -> (
    None
):
    order: list[list[str]] = [[], []]

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = (nn.Linear(n, 3) for n in (4, 5, 6))

        def forward(self, reverse: bool) -> torch.Tensor:
            layers = [(self.a, 4), (self.b, 5), (self.c, 6)]
            out = [f(torch.ones(1, n)) for f, n in (layers[::-1] if reverse else layers)]
            return torch.stack(out).square().sum()

    def work(world: ThreadWorld) -> tuple[list[tuple[str, int]], torch.Tensor]:
        model = Branches()
        _, optimizer, sync = attached(model, "adam", world, schedule=every(1), bucket_bytes=1)
        for name, p in model.named_parameters():
            p.register_post_accumulate_grad_hook(lambda _, n=name: order[world.rank].append(n))
        for _ in range(3):
            optimizer.zero_grad()
            model(reverse=world.rank == 1).backward()
            optimizer.step()
            sync.step()
        return world.log, parameters(model)

    (log0, x0), (log1, x1) = on_ranks(2, work)
    assert order[0] != order[1]
    assert log0 == log1
    assert torch.equal(x0, x1)
    lengths = [n for what, n in log0 if what == "begin_average"]
    assert len(lengths) > 2 * 3 and sum(lengths) == 3 * (x0.numel() + 6)


def test_averages_begin_before_backward_has_ended() -> None:
    def work(world: ThreadWorld) -> list[int]:
        model, optimizer, _ = attached(world=world, schedule=every(1), bucket_bytes=64)
        begun = []
        first = next(model.parameters())
        first.register_hook(lambda g: begun.append(len(world.log)))
        before = len(world.log)
        loss_of(model, world.rank, 0).backward()
        optimizer.step()
        return [begun[0] - before, len(world.log) - before]

    for during, after in on_ranks(2, work):
        assert 0 < during < after


def test_the_average_is_there_when_backward_returns_so_clipping_works() -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, schedule=every(1))
        loss_of(model, world.rank, 0).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        sync.step()
        return torch.cat([parameters(model), norm[None]])

    everyone_equal(on_ranks(2, work))


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant: bool) -> None:
    """The reentrant form runs a backward pass inside the other, which ends before it."""

    def work(world: ThreadWorld, checkpointed: bool = True) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, schedule=every(1), bucket_bytes=64)
        first, last = model[:1], model[1:]
        for t in range(3):
            optimizer.zero_grad()
            x, y = batch(world.rank, t)
            hidden = first(x)
            again = {"use_reentrant": reentrant, "preserve_rng_state": False}
            out = checkpoint(last, hidden, **again) if checkpointed else last(hidden)
            (out - y).square().mean().backward()
            optimizer.step()
            sync.step()
        return parameters(model)

    plain = everyone_equal(on_ranks(2, lambda world: work(world, False)))
    torch.testing.assert_close(everyone_equal(on_ranks(2, work)), plain)


def test_hooks_go_at_the_switch_and_nothing_is_sent_between_syncs() -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=post_local(switch=2, every=4))
        steps(model, optimizer, sync, range(2), world.rank)
        assert all(p._post_accumulate_grad_hooks for p in model.parameters())
        steps(model, optimizer, sync, range(2, 3), world.rank)
        assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
        before = len(world.transport.log)
        steps(model, optimizer, sync, range(3, 5), world.rank)
        assert len(world.transport.log) == before
        steps(model, optimizer, sync, range(5, 6), world.rank)
        assert len(world.transport.log) == before + 2  # agreement and the mean

    on_ranks(2, work)


def test_no_gradient_memory_where_there_are_local_steps_only() -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=every(3))
        gradients = sync._run.gradients.hooks
        assert gradients is not None
        steps(model, optimizer, sync, range(1), world.rank)
        assert gradients._flat == [] and sync._run.gradients.hooks is None

    on_ranks(2, work)


class Mixture(nn.Module):
    """Worker k uses expert k, and nobody the last one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def forward(self, rank: int) -> torch.Tensor:
        return self.experts[rank](torch.ones(1, 2)).square().sum()


@pytest.mark.parametrize("schedule", [every(1), every(2)])
def test_parameters_used_on_one_rank_only_or_nowhere(schedule: Schedule) -> None:
    """As in plain training, what nobody uses has no gradient and is not even decayed."""

    def work(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(Mixture(), world=world, schedule=schedule)
        unused = model.experts[2].weight.detach().clone()
        for _ in range(4):
            optimizer.zero_grad(set_to_none=True)
            model(world.rank).backward()
            optimizer.step()
            sync.step()
        assert torch.equal(model.experts[2].weight, unused)
        assert model.experts[2].weight.grad is None
        return parameters(model)

    used = everyone_equal(on_ranks(2, work))
    start = parameters(Mixture())
    assert not torch.isclose(used[:12], start[:12]).any()


def test_what_an_algorithm_makes_of_no_gradient_is_a_dense_gradient() -> None:
    """As optimizers want it: most refuse sparse ones."""

    def work(world: ThreadWorld) -> None:
        given = {"algorithm": GradientTracking(), "schedule": every(1)}
        model, optimizer, sync = attached(Mixture(), world=world, **given)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            model(world.rank).backward()
            optimizer.step()
            assert [p.grad.layout for p in model.parameters()] == [torch.strided] * 6
            sync.step()

    on_ranks(2, work)


def test_a_rank_without_a_backward_pass_takes_part_with_zeros() -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, schedule=every(1))
        for t in range(3):
            optimizer.zero_grad()
            if world.rank == 0 or t != 1:
                loss_of(model, world.rank, t).backward()
            optimizer.step()
            sync.step()
        return parameters(model)

    everyone_equal(on_ranks(2, work))


def test_half_precision_gradients_are_averaged_in_float32() -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, int]:
        model = nn.Sequential(nn.Linear(4, 3).half(), nn.Linear(3, 2).half())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(1), world=world)
        for p in model.parameters():
            p.grad = torch.full_like(p, 60000.0)  # the sum of two overflows in half precision
        optimizer.step()
        sync.step()
        return torch.cat([p.grad.flatten() for p in model.parameters()]), sync.ledger.payload_bytes

    for grad, payload in on_ranks(2, work):
        assert (grad == 60000).all() and grad.dtype == torch.float16
        assert payload == 4 * (23 + 4)  # and a flag for each tensor


def test_a_fused_step_that_hides_an_overflow_is_refused() -> None:
    """GradScaler leaves its factor to fused optimizers, and steps them when gradients overflow."""

    def work(world: ThreadWorld) -> None:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
        algorithm = AllReduce(compressor=Sign())
        hpc_localsgd.attach(model, optimizer, algorithm=algorithm, schedule=every(1), world=world)
        optimizer.grad_scale = torch.tensor(65536.0)  # as GradScaler.step does
        optimizer.found_inf = torch.tensor(1.0)
        loss_of(model, world.rank, 0).backward()
        with pytest.raises(ConfigurationError, match="fused=False"):
            optimizer.step()

    on_ranks(2, work)


@pytest.mark.parametrize("limit", [1, 10, 100, 10**9])
@pytest.mark.parametrize("sizes", [[7], [3, 3, 3, 3], [1] * 20, [5, 1, 40, 2, 2, 300, 10, 10]])
def test_buckets_cover_everything_once_and_are_full(sizes: list[int], limit: int) -> None:
    begins = [len(sizes)]
    for size in sizes:
        begins.append(begins[-1] + size)
    cuts = cuts_from_the_end(begins, limit)
    assert cuts[-1][0] == 0 and cuts[0][1] == len(sizes)
    assert all(a[0] == b[1] for a, b in zip(cuts, cuts[1:], strict=False))
    assert all(begins[b] - begins[a] >= limit for a, b in cuts[:-1])


def penalised(world: ThreadWorld | None, shares: list[int], H: int, nosync: bool) -> torch.Tensor:
    """Three steps with a penalty on the gradients that backward left, as second-order methods do.

    Args:
        world: None for a plain loop, which takes the mean of the shares' gradients.
        shares: Whose batches.
        H: Length of the rounds.
        nosync: Backward passes in `sync.no_sync()`.
    """
    model, sync = net(), None
    if world is not None:
        model, optimizer, sync = attached(model, world=world, schedule=every(H))
    else:
        optimizer = OPTIMIZERS["sgd"](model.parameters())
    for t in range(3):
        means = [torch.zeros_like(p) for p in model.parameters()]
        for share in shares:
            optimizer.zero_grad()
            with sync.no_sync() if sync and nosync else nullcontext():
                loss_of(model, share, t).backward(create_graph=True)
                sum(p.grad.square().sum() for p in model.parameters()).backward()
            for mean, p in zip(means, model.parameters(), strict=True):
                mean += p.grad.detach() / len(shares)
        if sync is None:
            for mean, p in zip(means, model.parameters(), strict=True):
                p.grad = mean
        optimizer.step()
        if sync is not None:
            sync.step()
    return parameters(model)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_gradients_with_a_graph_work_or_are_refused_in_a_sentence() -> None:
    local = on_ranks(2, lambda world: penalised(world, [world.rank], 3, False))
    alone = torch.stack([penalised(None, [rank], 3, False) for rank in range(2)])
    torch.testing.assert_close(local[0], alone.mean(0), rtol=1e-4, atol=1e-6)
    paused = on_ranks(2, lambda world: penalised(world, [world.rank], 1, True))
    torch.testing.assert_close(paused[0], penalised(None, [0, 1], 1, False), rtol=1e-4, atol=1e-6)
    one, other = errors_on_ranks(2, lambda world: penalised(world, [world.rank], 1, False))
    assert one == other and "write `with sync.no_sync():` around it" in one


def test_a_step_without_a_closure_may_say_so() -> None:
    """`optimizer.step(closure=None)`, as wrappers of optimisers call it."""
    model, optimizer, sync = attached(schedule=every(1), algorithm=GradientTracking())
    loss_of(model, 0, 0).backward()
    optimizer.step(closure=None)
    sync.step()
