"""Models as users write them: buffers of every kind, frozen parts, modes, batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from loops import attached, everyone_equal, parameters
from rank_threads import ThreadWorld, errors_on_ranks, on_ranks
from torch import nn
from torch.nn.utils import parametrizations

import hpc_localsgd
from hpc_localsgd import every
from hpc_localsgd.errors import ConfigurationError


def train(model: nn.Module, optimizer: Any, sync: Any, rank: int, n: int, width: int = 4) -> None:
    """Steps of n batches [6, width], other ones on each rank."""
    for t in range(n):
        draws = torch.Generator().manual_seed(100 * rank + sync.t)
        optimizer.zero_grad()
        model(torch.randn(6, width, generator=draws) + rank).square().mean().backward()
        optimizer.step()
        sync.step()
        del t


def batches(rank: int) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(rank)
    return [torch.randn(6, 4, generator=draws) + rank for _ in range(3)]


class Careful(nn.Sequential):
    """Keeps its first part in evaluation mode, whoever calls train()."""

    def train(self, mode: bool = True) -> Careful:
        super().train(mode)
        self[0].eval()
        return self


def fine_tuned(careful: bool) -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    body[1].running_mean.fill_(5.0)  # what pretraining left
    body.requires_grad_(False)
    head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    model = (Careful if careful else nn.Sequential)(body, head)
    model.train()
    body.eval()
    return model


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("evaluating", [False, True], ids=["as it is", "eval() before"])
def test_a_frozen_body_keeps_its_statistics_and_its_mode(careful: bool, evaluating: bool) -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = fine_tuned(careful)
        frozen, trained = model[0][1], model[1][1]
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 5)
        modes = [m.training for m in model.modules()]
        if evaluating:
            model.eval()
        own = trained.running_mean.clone()
        with sync.averaged(batches=batches(world.rank)):
            assert (frozen.running_mean == 5).all()
            shown = trained.running_mean.clone()
            assert not torch.isclose(shown, own).any()
            model.eval()
        assert torch.equal(trained.running_mean, own)
        assert evaluating != (modes == [m.training for m in model.modules()])
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        train(model, optimizer, sync, world.rank, 5)
        assert (frozen.running_mean == 5).all() and not frozen.training
        sync.finish(batches=batches(world.rank))
        assert (frozen.running_mean == 5).all() and trained.momentum == 0.1
        assert [m.training for m in model.modules()] == modes
        return torch.cat([shown, trained.running_mean])

    everyone_equal(on_ranks(2, work))


def test_estimating_leaves_frozen_dropout_off_and_other_buffers_alone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
            self.register_buffer("codebook", torch.zeros(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.codebook += 1
            return x

    model = fine_tuned(careful=False).append(Counting())
    _, _, sync = attached(model)
    seen = []
    model[0][2].register_forward_hook(lambda m, inputs, out: seen.append(out.equal(inputs[0])))
    sync.finish(batches=batches(0))
    assert seen == [True] * 3
    assert int(model[2].calls) == 0 and not model[2].codebook.any()


def test_modes_stay_training_where_the_user_goes_on_to_train_inside() -> None:
    model = fine_tuned(careful=False).eval()
    _, _, sync = attached(model)
    with sync.averaged():
        model.train()
    assert model.training


def test_a_norm_that_no_batch_reaches_keeps_its_statistics() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(2))
            self.which = 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norms[self.which](x)

    model = Branches()
    _, _, sync = attached(model)
    model(batches(0)[0])
    before = model.norms[1].running_mean.clone()
    model.which = 0
    with sync.averaged(batches=batches(1)):
        assert torch.equal(model.norms[1].running_mean, before)
        assert model.norms[0].running_mean.any()


@pytest.mark.parametrize("legacy", [False, True], ids=["parametrization", "hook"])
def test_a_spectrally_normalised_weight_stays_so(legacy: bool) -> None:
    """The mean of unit vectors is shorter than one, and the weight would be divided by less."""
    normed = nn.utils.spectral_norm if legacy else parametrizations.spectral_norm

    def norms(model: nn.Module) -> list[float]:
        model.eval()
        with torch.no_grad():
            model(torch.ones(1, 12))
            found = [float(torch.linalg.matrix_norm(m.weight, 2)) for m in (model[0], model[2])]
        model.train()
        return found

    def work(world: ThreadWorld) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(normed(nn.Linear(12, 12)), nn.Tanh(), normed(nn.Linear(12, 1)))
        _, optimizer, sync = attached(model, "adam", world, schedule=every(8))
        train(model, optimizer, sync, world.rank, 16, width=12)
        name = "weight_u" if legacy else "parametrizations.weight.0._u"
        own = dict(model[0].named_buffers())[name].clone()
        with sync.averaged():
            assert norms(model) == pytest.approx([1, 1], abs=0.05)
        assert torch.equal(dict(model[0].named_buffers())[name], own)
        sync.finish()
        assert norms(model) == pytest.approx([1, 1], abs=0.05)
        return torch.cat([b.flatten() for b in model.buffers()])

    everyone_equal(on_ranks(2, work))


class Rotary(nn.Module):
    """A cache that grows with the longest sequence that was met."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.grow(6)

    def grow(self, n: int) -> None:
        self.n = n
        cos = torch.arange(float(n))[:, None].mul(torch.ones(4)).cos()
        self.register_buffer("cos", cos, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.n:
            self.grow(len(x))
        return self.linear(x * self.cos[: len(x)])


@pytest.mark.parametrize("differs", ["before attach", "in training", "inside averaged()"])
def test_a_cache_is_left_alone_however_it_grows(differs: str) -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = Rotary()
        if differs == "before attach":
            model.grow(7 + world.rank)
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 4)
        if differs == "in training":
            model(torch.ones(10 + 3 * world.rank, 4))
        with sync.averaged():
            if differs == "inside averaged()":
                model(torch.ones(30, 4))
        model(torch.ones(model.n, 4))  # what the module remembers of its cache is true of it
        train(model, optimizer, sync, world.rank, 2)
        sync.finish()
        return parameters(model)

    everyone_equal(on_ranks(2, work))


def with_buffer(value: torch.Tensor, name: str = "thing", persistent: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_buffer(name, value, persistent=persistent)
    return model


OTHER_BUFFERS: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "sparse rows": lambda: torch.eye(4).to_sparse_csr(),
    "expanded": lambda: torch.arange(4.0).expand(3, 4),
    "a mask": lambda: torch.tensor([True, False]),
    "a number": lambda: torch.tensor(2.5),
    "nothing": lambda: torch.zeros(0, 3),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "half": lambda: torch.ones(3, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("policy", ["reestimate", "average", "local"])
@pytest.mark.parametrize("kind", OTHER_BUFFERS)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_buffers_of_every_kind_come_through(kind: str, policy: str) -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = with_buffer(OTHER_BUFFERS[kind]())
        _, optimizer, sync = attached(model, world=world, batchnorm=policy)
        train(model, optimizer, sync, world.rank, 4)
        with sync.averaged():
            pass
        train(model, optimizer, sync, world.rank, 1)
        sync.finish()
        now, then = model[0].thing.to_dense(), OTHER_BUFFERS[kind]().to_dense()
        assert torch.equal(now, then) and model[0].thing.layout == OTHER_BUFFERS[kind]().layout
        return parameters(model)

    everyone_equal(on_ranks(2, work))


@pytest.mark.parametrize("kind", [k for k in OTHER_BUFFERS if k[:6] != "sparse"])
def test_a_saved_buffer_that_is_no_statistic_is_rank_0s_at_the_end(kind: str) -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = with_buffer(OTHER_BUFFERS[kind]())
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 2)
        model[0].thing = own = ~model[0].thing if kind == "a mask" else model[0].thing + world.rank
        own = own.clone()
        with sync.averaged():
            shown = model[0].thing.clone()
        assert torch.equal(model[0].thing, own)
        sync.finish()
        assert torch.equal(model[0].thing, shown)
        return shown

    everyone_equal(on_ranks(2, work))


def test_a_sparse_buffer_that_differs_is_refused_at_attach() -> None:
    def work(world: ThreadWorld) -> None:
        attached(with_buffer((torch.eye(4) * (1 + world.rank)).to_sparse()), world=world)

    one, other = errors_on_ranks(2, work)
    assert one == other and "buffer 0.thing [4, 4] torch.float32 sparse_coo with checksum" in one


def test_statistics_of_two_shapes_are_refused_by_name_with_both() -> None:
    def work(world: ThreadWorld) -> None:
        model = with_buffer(torch.ones(3), "running_range")
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 4)
        own = parameters(model)
        model[0].running_range = torch.ones(3 + 2 * world.rank)
        try:
            with sync.averaged():
                raise AssertionError("shown")
        finally:
            assert torch.equal(parameters(model), own)

    one, other = errors_on_ranks(2, work)
    assert one == other
    assert "running statistic 0.running_range cannot be averaged: rank 0 has" in one
    assert "[3]" in one and "[5]" in one


def test_a_saved_buffer_of_two_shapes_stays_each_ranks_own_with_a_word() -> None:
    def work(world: ThreadWorld) -> list[str]:
        import warnings

        model = with_buffer(torch.ones(3))
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 1)
        model[0].thing = torch.ones(3 + world.rank)
        if world.rank == 0:  # warnings are caught for the whole process
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                sync.finish()
            found = [str(w.message) for w in said]
        else:
            sync.finish()
            found = []
        assert len(model[0].thing) == 3 + world.rank
        return found

    said, nothing = on_ranks(2, work)
    assert nothing == [] and any("0.thing" in text and "other shapes" in text for text in said)


def test_named_buffers_are_averaged() -> None:
    def work(world: ThreadWorld) -> torch.Tensor:
        model = with_buffer(torch.zeros(2), "codebook")
        _, optimizer, sync = attached(model, world=world, averaged_buffers=["*.codebook"])
        train(model, optimizer, sync, world.rank, 1)
        model[0].codebook += world.rank
        sync.finish()
        return model[0].codebook

    assert everyone_equal(on_ranks(2, work)).tolist() == [0.5, 0.5]
    for wrong, said in ((["*.cdebook"], "has 0.codebook"), ("codebook", "write a list")):
        with pytest.raises(ConfigurationError, match=said):
            attached(with_buffer(torch.zeros(2), "codebook"), averaged_buffers=wrong)


@pytest.mark.parametrize("through_data", [False, True])
def test_a_teacher_updated_by_an_ema_is_averaged(through_data: bool) -> None:
    def work(world: ThreadWorld) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        student, teacher = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)
        model = nn.ModuleDict({"student": student, "teacher": teacher})
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(3), world=world)
        with torch.no_grad():
            if through_data:  # tells no version counter
                teacher.weight.data.fill_(1.0 + world.rank)
            else:
                teacher.weight.fill_(1.0 + world.rank)
        with sync.averaged():
            shown = teacher.weight.clone()
        assert (teacher.weight == 1 + world.rank).all()
        sync.finish()
        return shown, teacher.weight.detach().clone()

    for shown, end in on_ranks(2, work):
        assert (shown == 1.5).all() and (end == 1.5).all()


def test_a_frozen_parameter_of_whole_numbers_is_rank_0s_at_the_end() -> None:
    """They have no mean: quantised weights, a codebook's indices."""

    def work(world: ThreadWorld) -> torch.Tensor:
        model = nn.Linear(2, 2)
        codes = torch.tensor([3 + world.rank, 5 - world.rank])
        model.register_parameter("codes", nn.Parameter(codes, requires_grad=False))
        optimizer = torch.optim.SGD([model.weight, model.bias], lr=0.1)
        sync = hpc_localsgd.attach(model, optimizer, schedule=every(3), world=world)
        with torch.no_grad():
            model.codes.copy_(codes)
        sync.finish()
        return model.codes.detach()

    assert [codes.tolist() for codes in on_ranks(2, work)] == [[3, 5], [3, 5]]


def test_equal_frozen_parameters_are_not_even_rounded_nor_sent() -> None:
    def work(world: ThreadWorld) -> None:
        model = fine_tuned(careful=False)
        _, _, sync = attached(model, world=world)
        before = model[0][0].weight.clone()
        world.transport.log.clear()
        sync.finish()
        assert torch.equal(model[0][0].weight, before)
        assert all(n < before.numel() for _, n in world.log), world.log

    with pytest.warns(UserWarning, match="BatchNorm"):
        on_ranks(3, work)


class Named(dict):  # type: ignore[type-arg]
    """As a transformers' BatchEncoding."""


CALLS: dict[str, tuple[Any, Any]] = {
    "a tensor": (lambda x: x, None),
    "a pair": (lambda x: (x, 0), None),
    "a list": (lambda x: [x, 0], None),
    "a dict": (lambda x: {"x": x}, lambda model, batch: model(batch["x"])),
    "two inputs": (lambda x: (x, 1, 2), lambda model, batch: model(batch[0] * batch[1])),
    "nested": (lambda x: {"in": ({"x": [x]},)}, lambda model, b: model(b["in"][0]["x"][0])),
}


@pytest.mark.parametrize("kind", CALLS)
def test_batches_as_loaders_give_them(kind: str) -> None:
    make, forward = CALLS[kind]
    model = nn.Sequential(nn.BatchNorm1d(4))
    _, _, sync = attached(model)
    with sync.averaged(batches=[make(x) for x in batches(0)], forward=forward):
        shown = model[0].running_mean.clone()
    torch.testing.assert_close(shown, torch.stack(batches(0)).mean((0, 1)))
    sync.finish(batches=[make(x) for x in batches(0)], forward=forward)
    torch.testing.assert_close(model[0].running_mean, shown)


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"x": torch.ones(6, 4)}, "with a dict"),
        (Named(x=torch.ones(6, 4)), "with a Named"),
        ((torch.arange(6), torch.ones(6, 4)), "first element of a tuple"),
        ((), "a tuple"),
        ("text", "a str"),
    ],
)
def test_batches_that_say_not_how_to_call_the_model(
    batch: Any, said: str, at_the_end: bool
) -> None:
    def work(world: ThreadWorld) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        _, optimizer, sync = attached(model, world=world)
        train(model, optimizer, sync, world.rank, 3)
        own = torch.cat([parameters(model), model[1].running_mean])
        given = [batch] if world.rank else batches(0)  # one rank's alone
        try:
            if at_the_end:
                sync.finish(batches=given)
            else:
                with sync.averaged(batches=given):
                    pass
        finally:
            now = torch.cat([parameters(model), model[1].running_mean])
            assert torch.equal(now, own) and model[1].momentum == 0.1 and model[1].training

    told, named = errors_on_ranks(2, work)
    assert said in named and "forward=lambda model, batch" in named, named
    assert "rank 1 could not" in told


def test_an_exception_of_ones_own_forward_is_ones_own() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    _, _, sync = attached(model)
    with (
        pytest.raises(ZeroDivisionError),
        sync.averaged(batches=batches(0), forward=lambda model, batch: 1 / 0),
    ):
        pass
    with sync.averaged(batches=batches(0)):  # it can be entered again
        assert model[0].running_mean.any()


def test_what_attach_broadcasts_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large frozen model costs no further copy of itself."""

    from hpc_localsgd.attach import other_tensors

    monkeypatch.setattr(other_tensors, "PART_BYTES", 4096)

    def work(world: ThreadWorld) -> torch.Tensor:
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 3), nn.Linear(3, 3))
        with torch.no_grad():
            for i, p in enumerate(model.parameters()):
                p.fill_(i + 10 * world.rank)
        model[:2].requires_grad_(False)
        _, _, sync = attached(model, world=world)
        sent = [n for what, n in world.log if what == "broadcast"]
        assert max(sent) <= 4096 and sum(sent) >= 4 * (64 * 64 + 64 + 64 * 3 + 3)
        sync.detach()
        return parameters(model)

    everyone_equal(on_ranks(2, work))
