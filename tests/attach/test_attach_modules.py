"""Models as users write them: frozen parts, modes, norms, teachers."""

from __future__ import annotations

import pytest
import torch
from loops import attached, everyone_equal, parameters
from rank_threads import ThreadWorld, on_ranks
from rows import batches, train
from torch import nn
from torch.nn.utils import parametrizations

import hpc_localsgd
from hpc_localsgd import every


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
