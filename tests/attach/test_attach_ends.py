"""How a run ends, is looked at on its way, and continues after an interruption."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from loops import (
    attached,
    batch,
    everyone_equal,
    in_plain_torch,
    net,
    of_the_folder,
    parameters,
    schedule_for,
    steps,
)
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from torch import nn

import hpc_localsgd
from hpc_localsgd import (
    CoCoD,
    Gossip,
    LocalSGD,
    every,
    post_local,
)
from hpc_localsgd.algorithms.base import Algorithm

POST_LOCAL = post_local(switch=4, every=3)


def test_the_run_averages_on_exit_however_it_ends() -> None:
    def by_finish(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, schedule=every(4))
        steps(model, optimizer, sync, range(6), world.rank)
        sync.finish()
        sync.finish()
        return parameters(model)

    def by_context(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, schedule=every(4))
        with sync:
            steps(model, optimizer, sync, range(6), world.rank)
        return parameters(model)

    def by_steps(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, schedule=every(4), steps=6)
        steps(model, optimizer, sync, range(6), world.rank)
        with pytest.raises(RuntimeError, match="after the run has ended"):
            sync.step()
        return parameters(model)

    ends = [everyone_equal(on_ranks(2, how)) for how in (by_finish, by_context, by_steps)]
    everyone_equal(ends)
    torch.testing.assert_close(ends[0], in_plain_torch(2, 6, {0: 4, 4: 4}), rtol=1e-5, atol=1e-6)


def test_an_exception_on_one_rank_waits_for_nobody() -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=every(4))
        with pytest.raises(ZeroDivisionError), sync:
            steps(model, optimizer, sync, range(2), world.rank)
            if world.rank == 0:
                raise ZeroDivisionError
            sync.detach()
            raise ZeroDivisionError

    on_ranks(2, work)


@pytest.mark.parametrize("algorithm", [Gossip(), CoCoD()], ids=repr)
@pytest.mark.parametrize("T", [4, 6])
def test_methods_whose_workers_never_agree_end_with_the_mean(algorithm: Algorithm, T: int) -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model, optimizer, sync = attached(world=world, schedule=every(4), algorithm=algorithm)
        steps(model, optimizer, sync, range(T), world.rank)
        sync.finish()
        assert not world.transport.in_flight
        return parameters(model)

    everyone_equal(on_ranks(3, work))


@pytest.mark.parametrize("algorithm", [LocalSGD(), Gossip()], ids=repr)
def test_averaged_shows_the_mean_model_and_gives_back_ones_own(algorithm: Algorithm) -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, torch.Tensor]:
        model, optimizer, sync = attached(
            net(norm=True), world=world, schedule=every(4), algorithm=algorithm, batchnorm="local"
        )
        steps(model, optimizer, sync, range(6), world.rank)
        own, state = parameters(model), copy.deepcopy(model.state_dict())
        billed = sync.ledger.payload_bytes
        with pytest.raises(ZeroDivisionError), sync.averaged() as mean:
            shown = parameters(mean)
            with pytest.raises(RuntimeError, match="already"), sync.averaged():
                pass
            for train in (sync.step, optimizer.step):
                with pytest.raises(RuntimeError, match="inside"):
                    train()
            raise ZeroDivisionError
        assert sync.ledger.payload_bytes == billed
        after = model.state_dict()
        assert all(torch.equal(state[name], after[name]) for name in state)
        steps(model, optimizer, sync, range(6, 7), world.rank)
        return shown, own

    (shown0, own0), (shown1, own1) = on_ranks(2, work)
    assert torch.equal(shown0, shown1) and not torch.equal(own0, own1)
    torch.testing.assert_close(shown0, (own0 + own1) / 2)


def test_statistics_of_the_mean_model_are_estimated_on_batches() -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, torch.Tensor]:
        model, optimizer, sync = attached(net(norm=True), world=world, schedule=every(4))
        steps(model, optimizer, sync, range(6), world.rank)
        norm = model[1]
        own, count = norm.running_mean.clone(), int(norm.num_batches_tracked)
        random = torch.get_rng_state() if world.rank == 0 else None
        with sync.averaged(batches=[batch(world.rank, t) for t in range(5)]):
            estimated = norm.running_mean.clone()
            inputs = torch.cat([batch(k, t)[0] for k in range(2) for t in range(5)])
            torch.testing.assert_close(estimated, model[0](inputs).mean((0, 2, 3)).detach())
        assert random is None or torch.equal(random, torch.get_rng_state())
        assert torch.equal(norm.running_mean, own) and int(norm.num_batches_tracked) == count
        assert model.training
        return estimated, own

    (estimated0, own0), (estimated1, own1) = on_ranks(2, work)
    assert torch.equal(estimated0, estimated1) and not torch.equal(own0, own1)


def test_a_worker_without_batches_is_an_error_on_all() -> None:
    def work(world: ThreadWorld) -> None:
        _, _, sync = attached(net(norm=True), world=world)
        with sync.averaged(batches=[batch(0, 0)] * world.rank):
            pass

    one, other = errors_on_ranks(2, work)
    assert one == other and "1 of 2 ranks had none" in one


@pytest.mark.parametrize("policy", ["average", "local", "reestimate"])
def test_statistics_at_an_exchange_follow_the_policy(policy: str) -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        model, optimizer, sync = attached(
            net(norm=True), world=world, schedule=every(2), batchnorm=policy
        )
        steps(model, optimizer, sync, range(2), world.rank)
        middle = model[1].running_mean.clone()
        payload = sync.ledger.payload_bytes
        sync.finish(batches=[batch(world.rank, 0)])
        return middle, model[1].running_mean.clone(), payload, int(model[1].num_batches_tracked)

    (m0, e0, payload, _), (m1, e1, _, _) = on_ranks(2, work)
    assert torch.equal(m0, m1) == (policy == "average")
    assert torch.equal(e0, e1)
    P = parameters(net(norm=True)).numel()
    assert payload == 4 * (P + (10 if policy == "average" else 0))


def test_without_batches_rank_0_warns_once() -> None:
    model, _, sync = attached(net(norm=True))
    with pytest.warns(UserWarning, match="averaged\\(batches=loader\\)"), sync.averaged():
        pass
    with sync.averaged():  # a second warning would be an error
        model.eval()


def test_the_last_of_the_steps_warns_of_no_batches_which_may_still_come() -> None:
    model, optimizer, sync = attached(net(norm=True), steps=3)
    steps(model, optimizer, sync, range(3))  # a warning would be an error
    before = model[1].running_mean.clone()
    with sync.averaged(batches=[batch(0, 7)]):
        assert not torch.equal(model[1].running_mean, before)


def test_a_run_does_not_end_while_the_mean_is_shown() -> None:
    model, optimizer, sync = attached()
    steps(model, optimizer, sync, range(3))
    with sync.averaged(), pytest.raises(RuntimeError, match="its effect would be undone"):
        sync.finish()
    sync.finish()
    with pytest.raises(RuntimeError, match="after the run has ended"):
        sync.step()


def test_statistics_that_come_after_attach_are_named() -> None:
    model, optimizer, sync = attached(net(norm=True), batchnorm="average")
    model.append(nn.BatchNorm1d(4, affine=False))
    with pytest.raises(RuntimeError, match=r"after attach: .*6\.running_mean"):
        steps(model, optimizer, sync, range(3))
    sync.detach()


def _saved(model: nn.Module, optimizer: torch.optim.Optimizer, sync: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, sync)], file)
    file.seek(0)
    return file


@pytest.mark.parametrize("algorithm", of_the_folder(), ids=lambda a: repr(a).replace(" ", ""))
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(algorithm: Algorithm) -> None:
    """From any of several steps; and a run that only saves itself is that one, too."""
    options = {"schedule": schedule_for(algorithm), "algorithm": algorithm, "batchnorm": "local"}

    def work(world: ThreadWorld) -> list[torch.Tensor]:
        def begun(seed: int) -> tuple[Any, Any, Any]:
            return attached(net(seed, norm=True), "adam", world.restarted(), **options)

        def end(run: tuple[Any, Any, Any], at: int) -> torch.Tensor:
            steps(*run, range(at, 10), world.rank)
            run[2].finish()
            return torch.cat([parameters(run[0]), run[0][1].running_mean])

        ends = [end(begun(0), 0)]
        run, done, files = begun(0), 0, {}
        for at in (2, 5, 7):  # in parallel rounds, in a round of local steps, between two
            steps(*run, range(done, at), world.rank)
            files[at], done = _saved(*run), at
        ends.append(end(run, done))
        for at, file in files.items():
            again = begun(7)
            for part, state in zip(again, torch.load(file, weights_only=True), strict=True):
                part.load_state_dict(state)
            ends.append(end(again, at))
        return ends

    for uninterrupted, *others in on_ranks(4, work):
        assert all(torch.equal(uninterrupted, other) for other in others)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda model, state, world: model.load_state_dict(net(3).state_dict()), "load this rank"),
        (lambda model, state, world: state.update(rank=0), "saved by rank 0 between two exch"),
        (lambda model, state, world: state.update(workers=8), "the state is of 8 workers"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_all(spoil: Any, said: str) -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world)
        steps(model, optimizer, sync, range(4), world.rank)
        state = sync.state_dict()
        if world.rank == 1:
            spoil(model, state, world)
        sync.load_state_dict(state)

    one, other = errors_on_ranks(2, work)
    assert one == other and "(on rank 1)" in one and said in one


def test_the_ledger_adds_up() -> None:
    def work(world: ThreadWorld) -> None:
        model, optimizer, sync = attached(world=world, schedule=POST_LOCAL)
        steps(model, optimizer, sync, range(10), world.rank)
        P, tensors = parameters(model).numel(), len(list(model.parameters()))
        account = sync.ledger
        assert account.payload_bytes == 4 * (4 * (P + tensors) + 2 * P)
        assert (account.rounds, account.calls, account.modelled) == (6, 6, False)
        assert account.wire_bytes == account.payload_bytes  # 2 (n - 1) / n with n = 2
        assert 0 < account.seconds < 60
        assert sync.ledger == account

    on_ranks(2, work)


def test_parameters_of_several_dtypes_are_exchanged() -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, int]:
        model = nn.Sequential(nn.Linear(4, 4).to(torch.bfloat16), nn.Linear(4, 2).double())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(2), world=world)
        for _ in range(2):
            optimizer.zero_grad()
            hidden = model[0](torch.full((3, 4), 1.0 + world.rank, dtype=torch.bfloat16))
            model[1](hidden.double()).square().sum().backward()
            optimizer.step()
            sync.step()
        flat = torch.cat([p.detach().double().flatten() for p in model.parameters()])
        return flat, sync.ledger.payload_bytes

    results = on_ranks(2, work)
    everyone_equal([x for x, _ in results])
    assert results[0][1] == 4 * 20 + 8 * 10
