"""Loops as people write them: what went wrong in silence is said, the rest equals a plain loop."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from loops import OPTIMIZERS, attached, everyone_equal, loss_of, net, parameters, steps
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from torch import nn

import hpc_localsgd
from hpc_localsgd import every, post_local


def said(work: Callable[[ThreadWorld], Any]) -> list[str]:
    """What two ranks are warned of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        on_ranks(2, work)
    return [str(w.message) for w in found if w.category is UserWarning]


@pytest.mark.parametrize("H", [1, 3])
def test_a_new_optimizer_without_a_new_attach_is_found(H: int) -> None:
    """A notebook: the cell that makes the optimiser is run again, the one that attaches is not."""

    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=every(H))
        steps(model, optimizer, sync, range(H), world.rank)
        anew = OPTIMIZERS["sgd"](model.parameters())
        steps(model, anew, sync, range(H, 5 * H), world.rank)

    one, other = errors_on_ranks(2, work)
    assert one == other and "attach again with the optimizer that the loop steps" in one


def test_a_checkpoint_loaded_in_rounds_whose_steps_are_skipped_is_no_new_optimizer() -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=every(1))
        for load in (False, True, False, False, True, False):  # a GradScaler that skips
            if load:
                model.load_state_dict(copy.deepcopy(model.state_dict()))
            loss_of(model, world.rank, 0).backward()
            sync.step()
        steps(model, optimizer, sync, range(3), world.rank)

    on_ranks(2, work)


@pytest.mark.parametrize(
    ("steps_of", "counts_of", "count"),
    [(1, 4, "32 times for 8 optimizer.step()"), (3, 1, "32 times for 96 optimizer.step()")],
)
def test_steps_counted_for_every_micro_batch_or_once_for_several_are_said(
    steps_of: int, counts_of: int, count: str
) -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=every(4))
        optimizer.param_groups[0]["lr"] = 1e-4
        for t in range(64 // counts_of):
            optimizer.zero_grad()
            for micro in range(counts_of):
                (loss_of(model, world.rank, t) / counts_of).backward()
                for _ in range(steps_of if micro == counts_of - 1 else 0):
                    optimizer.step()
                sync.step()

    text = said(work)
    assert len(text) == 1 and count in text[0] and "not after every micro-batch" in text[0]


def test_a_scaler_that_begins_too_high_is_not_complained_of() -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=every(4))
        for t in range(40):
            optimizer.zero_grad()
            loss_of(model, world.rank, t).backward()
            if t >= 12:
                optimizer.step()
            sync.step()
        sync.finish()

    assert said(work) == []


def test_the_next_gradient_in_the_place_of_one_that_was_skipped_is_no_wrong_order() -> None:
    """Where `zero_grad` has let go of a single tensor, a GradScaler's next step is often there."""
    model, optimizer, sync = attached(nn.Linear(4, 3, bias=False), schedule=every(4))
    place = model.weight.grad = torch.zeros(3, 4)
    for t in range(9):
        place.data.fill_(t + 1.0)  # the same object, written to as often
        if t % 4 != 3:
            optimizer.step()
        sync.step()
    assert sync.t == 9


class Decoupled(torch.optim.Adam):
    """An optimiser of a user's own that does something beside the step of torch's."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_a_step_that_calls_that_of_its_base_class_is_one() -> None:
    def work(world: ThreadWorld) -> None:
        model = net()
        torch.optim.Adam(model.parameters())  # of which torch then calls the hooks too
        optimizer = Decoupled(model.parameters(), lr=1e-4)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(4), world=world)
        steps(model, optimizer, sync, range(36), world.rank)

    assert said(work) == []


@pytest.mark.parametrize("same", [True, False])
def test_ranks_that_train_on_the_same_batches_are_told(same: bool) -> None:
    """No DistributedSampler, and one seed on all ranks: K times the work of one."""

    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=post_local(switch=2, every=3))
        steps(model, optimizer, sync, range(12), 0 if same else world.rank)
        sync.finish()

    text = said(work)
    assert len(text) == same and all("the same batches; give each rank its own" in t for t in text)


@pytest.mark.parametrize("how", ["averaged", "finish"])
@pytest.mark.parametrize("H", [1, 3])
def test_a_model_each_rank_loaded_for_itself_after_an_exchange_is_averaged(
    H: int, how: str
) -> None:
    """The best model so far, by each rank's own validation loss, say."""

    def work(world: ThreadWorld) -> tuple[torch.Tensor, torch.Tensor]:
        model, optimizer, sync = attached(world=world, schedule=every(H))
        steps(model, optimizer, sync, range(3), world.rank)
        model.load_state_dict(net(7 + world.rank).state_dict())
        own = parameters(model)
        if how == "finish":
            sync.finish()
            return own, parameters(model)
        with sync.averaged():
            return own, parameters(model)

    with pytest.warns(UserWarning, match="parameters differ where rounds leave them equal"):
        (own, mean), (other, also) = on_ranks(2, work)
    assert torch.equal(mean, also) and not torch.equal(own, other)
    torch.testing.assert_close(mean, (own + other) / 2)


def gan(world: ThreadWorld | None, ranks: list[int], H: int, T: int) -> list[torch.Tensor]:
    """Two optimisers, two attaches; without a world the same by hand for all ranks at once."""
    nets = [[small(1, 2), small(2, 2)] for _ in ranks]
    made = [[torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.5) for m in pair] for pair in nets]
    syncs: list[Any] = []
    if world is not None:
        syncs = [
            hpc_localsgd.attach(m, o, schedule=every(H), world=world)
            for m, o in zip(nets[0], made[0], strict=True)
        ]
    for t in range(T):
        for side in (0, 1):
            for (critic, maker), optimizers, rank in zip(nets, made, ranks, strict=True):
                z = torch.randn(5, 2, generator=torch.Generator().manual_seed(10 * t + rank))
                optimizers[side].zero_grad()
                fake = critic(maker(z) if side else maker(z).detach())
                (fake.mean() if side else (critic(z) - fake).mean()).backward()
            if world is None and H == 1:
                average([[p.grad for p in pair[side].parameters()] for pair in nets])
            for optimizers in made:
                optimizers[side].step()
            if syncs:
                syncs[side].step()
            elif H > 1 and (t + 1) % H == 0:
                average([[p.data for p in pair[side].parameters()] for pair in nets])
    return [parameters(m) for m in nets[0]]


def small(seed: int, out: int) -> nn.Module:
    """A net whose numbers are its own: threads share torch's global random numbers."""
    made = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, out))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / 2)
    return made


def average(rows: list[list[torch.Tensor]]) -> None:
    for tensors in zip(*rows, strict=True):
        mean = torch.stack(list(tensors)).mean(0)
        for tensor in tensors:
            tensor.copy_(mean)


@pytest.mark.parametrize("H", [1, 2])
def test_a_gan_with_two_optimizers_is_the_plain_loop(H: int) -> None:
    """The generator's loss goes through the critic, whose gradients are not its own then."""
    expected = gan(None, [0, 1], H, 4)
    for ours in on_ranks(2, lambda world: gan(world, [world.rank], H, 4)):
        for x, y in zip(ours, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


class Adapted(nn.Module):
    """A frozen layer with a low-rank adapter, called with a dict as transformers' models are."""

    def __init__(self) -> None:
        super().__init__()
        self.base = small(0, 3).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.ones(2, 1)), nn.Parameter(torch.zeros(1, 3))
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        logits = self.norm(self.base(x) + x @ self.a @ self.b)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def test_adapters_on_a_frozen_model_with_batches_that_are_dicts() -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, torch.Tensor]:
        model = Adapted()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(3), world=world)
        draws = torch.Generator().manual_seed(world.rank)
        loader = [
            {"x": torch.randn(6, 2, generator=draws), "labels": torch.arange(6) % 3}
            for _ in range(7)
        ]
        frozen = parameters(model.base)
        for i, batch in enumerate(loader):
            (model(**batch)["loss"] / 2).backward()  # accumulated over two, no no_sync
            if i % 2:
                optimizer.step()
                optimizer.zero_grad()
                sync.step()
        with sync.averaged(batches=loader, forward=lambda m, b: m(**b)):
            model.eval()
            shown = torch.cat([parameters(model), model.norm.running_var])
        assert model.training and torch.equal(parameters(model.base), frozen)
        sync.finish(batches=loader, forward=lambda m, b: m(**b))
        return shown, torch.cat([parameters(model), model.norm.running_var])

    (shown, end), (also, last) = on_ranks(2, work)
    everyone_equal([shown, also, end, last])
