"""A rank whose numbers are not finite: stop, or quarantine as in the trainer."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from loops import attached, loss_of, net, parameters, steps
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from small_runs import adam, sgd
from spoiled import NAN, in_the_trainer, through_attach
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import hpc_localsgd
from hpc_localsgd import AllReduce, CoCoD, DiLoCo, Gossip, LocalSignMomentum, Overlap, every
from hpc_localsgd.worlds.simulated import Simulated

pytestmark = pytest.mark.filterwarnings("ignore:.*the numbers of rank.*not finite.*")


@pytest.mark.parametrize(
    ("optimizer", "algorithm"),
    [
        (sgd(momentum=0.9), None),
        (adam(), None),
        (sgd(momentum=0.9), AllReduce()),
        (sgd(), DiLoCo()),
        (sgd(), LocalSignMomentum(compressor=None)),  # a scale is of a tensor
    ],
    ids=["sgd", "adam", "allreduce", "diloco", "signs"],
)
def test_the_numbers_are_the_trainers(optimizer: Any, algorithm: Any) -> None:
    expected = in_the_trainer(3, optimizer, algorithm)
    assert expected.isfinite().all()
    ranks = on_ranks(3, lambda world: through_attach(world, optimizer, algorithm))
    for x in ranks:
        torch.testing.assert_close(x, expected, rtol=1e-10, atol=1e-12)


def test_gradients_that_no_rank_sends_are_not_asked_about() -> None:
    """Momentum makes their signs one's own: a round of local steps talks at its end."""

    def work(world: ThreadWorld) -> int:
        model, optimizer, sync = attached(
            world=world, algorithm=LocalSignMomentum(), schedule=every(8), on_nan="quarantine"
        )
        before = len(world.transport.log)
        steps(model, optimizer, sync, range(7), world.rank)
        return len(world.transport.log) - before

    assert on_ranks(2, work) == [0, 0]


def spoiled_loop(
    world: ThreadWorld, model: nn.Module, bad: set[tuple[int, int]], **given: Any
) -> Any:
    """Eight steps of `loops.steps`, with a gradient that is not finite at (step, rank)."""
    _, optimizer, sync = attached(model, world=world, **({"on_nan": "quarantine"} | given))
    for t in range(8):
        optimizer.zero_grad()
        loss_of(model, world.rank, t).backward()
        if (t, world.rank) in bad:
            model[0].weight.grad[:] = NAN
        optimizer.step()
        sync.step()
    return sync


def test_who_was_left_out_is_said_once_on_rank_0() -> None:
    with pytest.warns(UserWarning, match="numbers of rank") as caught:
        on_ranks(2, lambda world: spoiled_loop(world, net(), {(1, 1)}, schedule=every(4)))
    said = [str(w.message) for w in caught if "numbers of rank" in str(w.message)]
    assert said == [
        "the end of a round after step 3: the numbers of rank 1 are not finite: left out, and "
        "given the mean of the others"
    ]


@pytest.mark.filterwarnings("ignore:BatchNorm. the mean model is evaluated with the mean")
def test_the_mean_model_in_mid_round_leaves_the_rank_out_and_gives_it_its_own_back() -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        model, optimizer, sync = attached(
            net(norm=True), world=world, schedule=every(8), on_nan="quarantine"
        )
        steps(model, optimizer, sync, range(3), world.rank)
        if world.rank == 1:
            with torch.no_grad():
                model[4].weight[0, 0] = NAN
                model[1].running_var[2] = NAN
        before = copy.deepcopy(model)
        with sync.averaged():
            shown = torch.cat([parameters(model), model[1].running_var])
        assert same_bits(before, model)
        return shown, parameters(model), model[1].running_var.clone()

    (shown, x0, v0), (also, _, _), (_, x2, v2) = on_ranks(3, work)
    assert torch.equal(shown, also)
    expected = torch.cat([(x0 + x2) / 2, (v0 + v2) / 2])
    torch.testing.assert_close(shown, expected, rtol=1e-5, atol=1e-6)


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a.nan_to_num(77.0), b.nan_to_num(77.0)) for a, b in pairs)


class Teaching(nn.Module):
    """A normalised student, and a teacher that follows it by an average."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(
            spectral_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4), nn.Linear(4, 1)
        )
        self.teacher = nn.Linear(4, 1).requires_grad_(False)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.student(x)


def taught(world: ThreadWorld, make: Callable[[Any], torch.optim.Optimizer]) -> Teaching:
    """Rank 1 meets a batch of NaN in the first of three rounds."""
    torch.manual_seed(0)
    model = Teaching()
    optimizer = make(model.student.parameters())
    sync = hpc_localsgd.attach(
        model, optimizer, schedule=every(3), world=world, on_nan="quarantine", batchnorm="average"
    )
    stream = torch.Generator().manual_seed(world.rank)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    for t in range(9):
        x = torch.randn(8, 4, generator=stream) + (NAN if (t, world.rank) == (1, 1) else 0.0)
        optimizer.step(closure)
        model.teacher.weight.lerp_(model.student[2].weight.detach(), 0.1)
        sync.step()
    sync.finish()
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
        lambda p: torch.optim.Adafactor(p, lr=0.01),
        lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
        lambda p: torch.optim.Rprop(p, lr=0.01),
    ],
    ids=["sgd", "adamw", "adafactor", "lbfgs", "rprop"],
)
def test_everything_else_of_the_rank_is_finite_again(make: Any) -> None:
    with pytest.warns(UserWarning, match="numbers of rank") as caught:
        one, other = on_ranks(2, lambda world: taught(world, make))
    times = sum("numbers of rank" in str(w.message) for w in caught)
    assert times == 1, "the rank was not finite again by itself"
    for (name, x), y in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
        assert name == "mask" or x.isfinite().all(), name
    assert one.mask.tolist() == [0.0, float("-inf")]


@pytest.mark.parametrize("algorithm", [None, Gossip()], ids=repr)
def test_when_all_are_astray_every_rank_stops(algorithm: Any) -> None:
    def work(world: ThreadWorld) -> None:
        bad = {(2, rank) for rank in range(2)}
        spoiled_loop(world, net(), bad, schedule=every(4), algorithm=algorithm)

    one, other = errors_on_ranks(2, work)
    assert one == other and "rank 0 (2 of 2 ranks) are not finite after step 3" in one


def test_without_quarantine_rounds_of_one_step_end_too() -> None:
    """The average of gradients has spread it to all ranks: looked for now and then."""

    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=every(1))
        for t in range(70):
            optimizer.zero_grad()
            (parameters_of(model) * (NAN if (t, world.rank) == (5, 1) else 1.0)).backward()
            optimizer.step()
            sync.step()

    one, other = errors_on_ranks(2, work)
    assert one == other and re.search("all ranks are not finite after step 63.*quarantine", one)


def parameters_of(model: nn.Module) -> torch.Tensor:
    return sum((p.sum() for p in model.parameters()), torch.zeros(()))


def test_statistics_that_rounds_average_stop_the_run_as_parameters_do() -> None:
    """A step that GradScaler skipped: the parameters are finite, the running statistics are not."""

    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(
            net(norm=True), world=world, schedule=every(2), batchnorm="average"
        )
        with torch.no_grad():
            model[1].running_var[0] = NAN if world.rank == 1 else 1.0
        steps(model, optimizer, sync, range(2), world.rank)

    one, other = errors_on_ranks(2, work)
    assert one == other and "parameters or statistics of rank 1 (1 of 2 ranks)" in one


def test_healthy_ranks_are_not_touched() -> None:
    def work(world: ThreadWorld, on_nan: str) -> torch.Tensor:
        model = net()
        sync = spoiled_loop(
            world, model, set(), schedule=hpc_localsgd.post_local(2, 3), on_nan=on_nan
        )
        sync.finish()
        return parameters(model)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = on_ranks(2, lambda world: work(world, "stop"))
        kept = on_ranks(2, lambda world: work(world, "quarantine"))
    assert torch.equal(plain[0], kept[0]) and torch.equal(plain[1], kept[1])


def test_another_word_is_refused() -> None:
    with pytest.raises(
        hpc_localsgd.errors.ConfigurationError,
        match="on_nan='skip': write one of 'stop', 'quarantine'",
    ):
        attached(world=Simulated(1), on_nan="skip")


@pytest.mark.parametrize(
    ("algorithm", "H", "seen"),
    [(Gossip(), 1, 63), (Gossip(), 24, 71), (CoCoD(), 8, 63), (Overlap(), 8, 63)],
    ids=str,
)
def test_workers_that_stay_different_are_looked_at_now_and_then(
    algorithm: Any, H: int, seen: int
) -> None:
    """Once in 64 steps, at the end of a round: they do not wait for all others otherwise."""
    taken: dict[int, int] = {}

    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, algorithm=algorithm, schedule=every(H))
        for t in range(130):
            optimizer.zero_grad()
            (parameters_of(model) * (NAN if (t, world.rank) == (5, 1) else 1.0)).backward()
            optimizer.step()
            taken[world.rank] = t
            sync.step()

    one, other = errors_on_ranks(2, work)
    assert one == other and "are not finite" in one and taken == {0: seen, 1: seen}
