"""What belongs to the user stays as it was: the optimiser, the model, its memory, the imports."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import OPTIMIZERS, attached, batch, loss_of, net, parameters, steps
from torch import nn

import hpc_localsgd
from hpc_localsgd import LocalSGD, SlowMo, every, phases, post_local
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.simulated import Simulated

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("schedule", [every(3), post_local(switch=4, every=3), every(1)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_worker_trains_as_without_us(optimizer: str, schedule: Any) -> None:
    plain = net()
    steps(plain, OPTIMIZERS[optimizer](plain.parameters()), None, range(10))
    model, ours, sync = attached(optimizer=optimizer, schedule=schedule)
    steps(model, ours, sync, range(10))
    sync.finish()
    assert torch.equal(parameters(model), parameters(plain))


def test_the_optimizer_is_the_same_object_with_the_same_abilities() -> None:
    model, optimizer, sync = attached(optimizer="adam")
    assert type(optimizer) is torch.optim.Adam
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in model.parameters()
    ]
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for t in range(4):
        optimizer.zero_grad(set_to_none=True)
        assert all(p.grad is None for p in model.parameters())
        loss_of(model, 0, t).backward()
        assert torch.isfinite(optimizer.step(lambda: torch.tensor(1.0)))
        scheduler.step()
        sync.step()
    assert seen == ["after"] * 4
    assert optimizer.param_groups[0]["lr"] == 0.01 * 0.25
    twin = copy.deepcopy(optimizer)
    assert twin.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
    twin.step()  # without our hooks: it belongs to nobody
    again = pickle.loads(pickle.dumps(optimizer))
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_a_scheduler_made_after_a_resume_drives_the_rate() -> None:
    _, optimizer, _ = attached()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_attach_in_the_middle_of_training_keeps_the_optimizers_state() -> None:
    plain, model = net(), net()
    theirs, ours = (OPTIMIZERS["adam"](m.parameters()) for m in (plain, model))
    steps(plain, theirs, None, range(8))
    steps(model, ours, None, range(4))
    before = {p: id(p) for p in ours.state}
    sync = hpc_localsgd.attach(model, ours, schedule=every(2), world=Simulated(1))
    assert {p: id(p) for p in ours.state} == before
    steps(model, ours, sync, range(4, 8))
    assert torch.equal(parameters(model), parameters(plain))


def test_parameters_move_once_and_their_values_never() -> None:
    model = net().to(memory_format=torch.channels_last)
    values, strides = (
        [p.detach().clone() for p in model.parameters()],
        [p.stride() for p in model.parameters()],
    )
    _, optimizer, sync = attached(model, algorithm=SlowMo())
    where = [p.data_ptr() for p in model.parameters()]
    assert all(torch.equal(p, v) for p, v in zip(model.parameters(), values, strict=True))
    assert [p.stride() for p in model.parameters()] == strides
    assert strides[0] != net()[0].weight.stride()
    steps(model, optimizer, sync, range(7))
    with sync.averaged():
        pass
    model.load_state_dict(net(5).state_dict())
    sync.finish()
    assert [p.data_ptr() for p in model.parameters()] == where
    ends = [-(-(p + v.nbytes) // 16) * 16 for p, v in zip(where, values, strict=True)]
    assert where[1:] == ends[:-1]  # one vector


def test_a_parameter_can_be_saved_without_the_whole_model() -> None:
    model, _, _ = attached(nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 1)))
    small = model[1].bias
    assert len(pickle.dumps(small)) < 1000
    assert small.untyped_storage().nbytes() == 4
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert len(file.getvalue()) < 400_000
    twin = copy.deepcopy(model)
    assert len(pickle.dumps(model)) < 400_000
    assert twin[0].weight.data_ptr() != model[0].weight.data_ptr()


def test_frozen_parameters_stay_where_they_are_and_tied_ones_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[1].weight.requires_grad_(False)
    frozen, where = model[1].weight, model[1].weight.data_ptr()
    _, _, sync = attached(model)
    assert frozen.data_ptr() == where
    assert "P=28" in repr(sync)  # 16 tied and three biases
    assert model[2].weight is model[0].weight


def test_each_dtype_has_its_own_vector_and_half_precision_travels_as_float32() -> None:
    model = nn.ModuleList(
        [nn.Linear(4, 4).to(torch.bfloat16), nn.Linear(4, 2), nn.Linear(2, 1).double()]
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sync = hpc_localsgd.attach(model, optimizer, schedule=every(2), world=Simulated(1))
    plain = copy.deepcopy(model)
    theirs = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(4):
        for m, o in ((model, optimizer), (plain, theirs)):
            o.zero_grad()
            hidden = m[1](m[0](torch.ones(3, 4, dtype=torch.bfloat16)).float())
            m[2](hidden.double()).sum().backward()
            o.step()
        sync.step()
    assert [p.dtype for p in model.parameters()] == [p.dtype for p in plain.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters()))  # noqa: B905


def test_compiled_models_train_the_same() -> None:
    plain = net()
    theirs = OPTIMIZERS["sgd"](plain.parameters())
    steps(plain, theirs, None, range(6))
    model = net()
    compiled = torch.compile(model, backend="aot_eager")
    _, optimizer, sync = attached(compiled)
    steps(compiled, optimizer, sync, range(6))
    torch.testing.assert_close(parameters(model), parameters(plain))


def test_detach_leaves_no_trace() -> None:
    model, optimizer, sync = attached(schedule=every(1))
    steps(model, optimizer, sync, range(2))
    sync.detach()
    assert not optimizer._optimizer_step_pre_hooks
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    steps(model, optimizer, None, range(2))
    with pytest.raises(RuntimeError, match="call attach again"):
        sync.step()
    gone = weakref.ref(sync)
    del sync
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, o: m.to(torch.float64), "0.weight was moved to other memory"),
        (
            lambda m, o: m.load_state_dict(net(1).state_dict(), assign=True),
            "0.weight is another object",
        ),
        (lambda m, o: o.add_param_group({"params": [nn.Parameter(torch.ones(1))]}), "added"),
    ],
)
def test_what_would_break_silently_is_an_error(change: Any, said: str) -> None:
    model, optimizer, sync = attached()
    change(model, optimizer)
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match=said):
        for _ in range(3):
            sync.step()


def test_unfreezing_after_attach_is_an_error() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sync = hpc_localsgd.attach(model, optimizer, schedule=every(1), world=Simulated(1))
    model[0].weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match="unfrozen"):
        sync.step()


def _twice() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight.data = model[0].weight.data
    return model


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda: attached(nn.DataParallel(net())), "model.module"),
        (lambda: attached(_twice()), "two Parameters with the same memory"),
        (lambda: attached(nn.Sequential(nn.LazyLinear(3))), "run the model once"),
        (lambda: attached(world=Simulated(4)), "4 workers in this process"),
        (lambda: attached(schedule=16), r"every\(16\)"),
        (lambda: attached(schedule=post_local(switch="50%")), "give steps="),
        (lambda: attached(schedule=post_local(switch="2 epochs")), "steps_per_epoch="),
        (lambda: attached(schedule=phases(at=("1 samples",), every=(1, 2))), "not in steps"),
        (lambda: attached(steps=0), "whole number of at least 1"),
    ],
)
def test_faults_of_the_request_say_what_to_type(fault: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        fault()


def test_an_optimizer_of_something_else_is_refused() -> None:
    other = torch.optim.SGD(net().parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match=r"group 0 .*\[5, 3, 3, 3\].* not in the model"):
        hpc_localsgd.attach(net(), other, schedule=every(1), world=Simulated(1))

    class Wrapper(torch.optim.Optimizer):  # as PostLocalSGDOptimizer and accelerate's do it
        def __init__(self, optim: torch.optim.Optimizer) -> None:
            self.optim, self.param_groups = optim, optim.param_groups

    for wrong in (Wrapper(other), object()):
        with pytest.raises(ConfigurationError, match="that was wrapped"):
            hpc_localsgd.attach(net(), wrong, schedule=every(1))


def test_durations_in_any_unit() -> None:
    _, _, sync = attached(schedule=post_local(switch="50%", every=2), steps=12, steps_per_epoch=3)
    assert "post_local(switch=6, every=2)" in repr(sync)
    _, _, sync = attached(schedule=post_local(switch="2 epochs"), steps_per_epoch=2.5)
    assert "switch=5" in repr(sync)


def test_repr_says_who_and_where() -> None:
    model, optimizer, sync = attached(schedule=every(3), steps=6)
    assert "LocalSGD" in repr(sync) and "not begun" in repr(sync)
    steps(model, optimizer, sync, range(4))
    assert "step 4 of 6, round 1: steps 3 to 5" in repr(sync)
    steps(model, optimizer, sync, range(2))
    assert repr(sync).endswith("over)")


def test_every_algorithm_of_the_folder_has_a_name_at_the_top() -> None:
    from hpc_localsgd.commands.configuration.config import choices

    for path in choices("algorithm").values():
        name = path.rsplit(".", 1)[1]
        assert getattr(hpc_localsgd, name).__name__ == name
    assert hpc_localsgd.LocalSGD is LocalSGD
    assert batch(0, 0)[0].shape == (6, 3, 6, 6)
