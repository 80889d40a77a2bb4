"""A run needs no compiler for optimisers and gradients of torch, which do as they do with it."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch
from launching import ROOT
from small_runs import small_run
from torch import nn

from hpc_localsgd.curvature.gauss_newton import squared_gradients
from hpc_localsgd.tasks import without_compiler
from hpc_localsgd.tasks.without_compiler import (
    gradients_without_it,
    spare_the_compiler,
    take_step,
)

OPTIMIZERS = [
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (torch.optim.SGD, {"fused": True, "nesterov": True, "momentum": 0.9}),
    (torch.optim.Adam, {}),
    (torch.optim.AdamW, {"amsgrad": True}),
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.RMSprop, {"centered": True}),
    (torch.optim.Adagrad, {}),
]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> str:
    """Other tests may have loaded it; its name is that of a module nobody has loaded."""
    monkeypatch.setattr(without_compiler, "_COMPILER", name := "no_such_compiler")
    for method in without_compiler._METHODS:
        plain = getattr(torch.optim.Optimizer, method).__wrapped__
        monkeypatch.setattr(plain, without_compiler._INSTEAD, None, raising=False)
        monkeypatch.delattr(plain, without_compiler._INSTEAD)
    return name


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_steps_are_those_of_torch(no_compiler: str, kind: type, options: dict[str, object]) -> None:
    def trained(ours: bool) -> torch.Tensor:
        x = nn.Parameter(torch.linspace(-1.0, 1.0, 7))
        optimizer = kind([x], lr=0.1, **options)
        for t in range(5):
            x.grad = torch.linspace(0.3, -0.7, 7) * (t + 1)
            take_step(optimizer) if ours else optimizer.step()
        return x.detach()

    spare_the_compiler()
    assert torch.equal(trained(True), trained(False))
    assert torch.is_grad_enabled()


def test_hooks_and_optimizers_of_ones_own_are_called(no_compiler: str) -> None:
    called = []

    class Mine(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            called.append("mine")

    x = nn.Parameter(torch.ones(2))
    x.grad = torch.ones(2)
    take_step(Mine([x], lr=0.1))
    hooked = torch.optim.SGD([x], lr=0.1)
    hooked.register_step_pre_hook(lambda *_: called.append("before"))
    hooked.register_step_post_hook(lambda *_: called.append("after"))
    take_step(hooked)
    assert called == ["mine", "before", "after"]
    with pytest.raises(RuntimeError, match="leaf"):  # as torch has it
        take_step(torch.optim.SGD([x], lr=0.1, differentiable=True))


LOADED_WHEN_ASKED_FOR = """
import inspect, sys, torch
from torch.func import grad
from hpc_localsgd.tasks.without_compiler import gradients_without_it
gradients_without_it()
assert grad(lambda x: x.square())(torch.tensor(3.0)) == 6
inspect.getmodule(inspect.currentframe())  # looks at all there is
assert "torch._dynamo" not in sys.modules
stands = torch._dynamo
assert stands.compiled_autograd.compiled_autograd_enabled is False
assert stands.is_compiling() is False
assert torch._dynamo is sys.modules["torch._dynamo"] is not stands
assert torch._dynamo.compiled_autograd is sys.modules["torch._dynamo.compiled_autograd"]
gradients_without_it()
assert grad(lambda x: x.square())(torch.tensor(3.0)) == 6
assert torch._dynamo is sys.modules["torch._dynamo"]
print("done")
"""


@pytest.mark.slow
def test_what_stands_for_the_compiler_gives_way_to_it() -> None:
    command = [sys.executable, "-c", LOADED_WHEN_ASKED_FOR]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.stdout == "done\n", done.stderr[-3000:]


def test_a_compiler_that_is_there_stays_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(torch), "_dynamo", there := ModuleType("there"))
    gradients_without_it()
    assert torch._dynamo is there


def test_gradients_of_single_samples_load_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(torch), "_dynamo", None)
    del vars(torch)["_dynamo"]
    task = small_run(K=1).task
    inputs, labels = task.batch([0], 0)
    sums = squared_gradients(task, [(inputs[0], labels[0])], task.init(0), task.buffers[0])
    assert sums[2] == len(labels[0])
    assert not isinstance(vars(torch)["_dynamo"], ModuleType)


def test_when_the_compiler_is_loaded_torch_does_what_it_does(
    no_compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare_the_compiler()
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    plain = torch.optim.Optimizer.state_dict.__wrapped__  # type: ignore[attr-defined]
    before = getattr(plain, without_compiler._INSTEAD)
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.1
    assert getattr(plain, without_compiler._INSTEAD) is before

    monkeypatch.setitem(sys.modules, no_compiler, ModuleType(no_compiler))
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.1
    assert getattr(plain, without_compiler._INSTEAD) is not before
    spare_the_compiler()
    assert getattr(plain, without_compiler._INSTEAD) is not before
