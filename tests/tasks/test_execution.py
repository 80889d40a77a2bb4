"""Other ways to compute a step give the same step, as far as their precision goes."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.execution import Execution, LossScale

R, B = 3, 8
CONV, MLP = digits("conv", "group", hidden=16), digits("mlp", hidden=16)
every_form = pytest.mark.parametrize(
    ("spec", "replicas"),
    [(CONV, "loop"), (CONV, "vmap"), (MLP, "loop"), (MLP, "vmap")],
    ids=["conv-loop", "conv-vmap", "mlp-loop", "mlp-vmap"],
)


def built(spec: digits, dtype: torch.dtype = torch.float32, **execution: Any) -> Any:
    made = Execution(**execution)
    task = spec.build(TaskContext(R, range(R), B, seed=1, dtype=dtype, execution=made))
    task.x[:] = task.init(0)
    task.x += 0.02 * torch.randn(task.x.shape, generator=torch.Generator().manual_seed(3))
    return task


def step(task: Any, t: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    losses, g = task.loss_and_grad(task.x, task.batch(range(R), t))
    return losses.clone(), g.clone()


@every_form
@pytest.mark.parametrize("n", [2, 8])
def test_micro_batches_give_the_gradient_of_the_batch(spec: digits, replicas: str, n: int) -> None:
    whole = step(built(spec, torch.float64, replicas=replicas))
    cut = step(built(spec, torch.float64, replicas=replicas, accumulate=n))
    for a, b in zip(cut, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@every_form
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_and_not_equal(spec: digits, replicas: str, precision: str) -> None:
    exact = step(built(spec, replicas=replicas))
    task = built(spec, replicas=replicas, precision=precision)
    losses, g = step(task)
    assert task.x.dtype == g.dtype == losses.dtype == torch.float32
    close = 0.06 if precision == "bf16" else 0.02
    assert (losses / exact[0] - 1).abs().max() < close
    assert (g - exact[1]).norm() < close * exact[1].norm()
    assert not torch.equal(g, exact[1])


def test_channels_last_computes_the_same() -> None:
    images = torch.randn(4, 3, 8, 8)
    assert Execution(channels_last=True).arranged(images).stride() == (192, 1, 24, 3)
    assert Execution().arranged(images) is images
    exact = step(built(CONV, torch.float64, replicas="loop"))
    arranged = step(built(CONV, torch.float64, replicas="loop", channels_last=True))
    torch.testing.assert_close(arranged[1], exact[1], rtol=1e-10, atol=1e-13)


def test_rows_of_compiled_replicas_are_aligned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """One program serves all of them, and loads 16 bytes at a time where the first row allows."""
    monkeypatch.setattr("hpc_localsgd.tasks.flat.check_compiler", lambda device: None)
    x = built(MLP, replicas="loop", compile=True).x
    assert len(x) > 1 and x.shape[1] % 64 != 0 and x.stride(0) % 64 == 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_takes_the_same_steps() -> None:
    exact, compiled = (built(MLP, replicas="loop", compile=c) for c in (False, True))
    for t in range(3):
        a, b = step(exact, t), step(compiled, t)
        torch.testing.assert_close(b[1], a[1], rtol=1e-4, atol=1e-6)
        for task, (_, g) in ((exact, a), (compiled, b)):
            task.x.sub_(g, alpha=0.1)


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--accumulate 3: .* give one of 1, 2, 4, 8"):
        built(MLP, accumulate=3)
    with pytest.raises(ConfigurationError, match="--precision bf16 is for parameters in float32"):
        built(MLP, torch.float64, precision="bf16")
    with pytest.raises(ConfigurationError, match="--replicas vmap: BatchNorm"):
        built(digits("conv", "batch"), replicas="vmap")


def test_a_gradient_that_overflows_is_left_out_and_lowers_the_scale() -> None:
    scale = LossScale(2, torch.device("cpu"))
    g = torch.tensor([[2.0**17, -(2.0**16)], [float("inf"), 1.0]])
    scale.unscale(g)
    assert g.tolist() == [[2.0, -1.0], [0.0, 0.0]]
    assert scale.factor.tolist() == [2.0**16, 2.0**15]
    g = torch.full((2, 2), float("nan"))
    scale.unscale(g)
    assert g.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert scale.factor.tolist() == [2.0**15, 2.0**14]


def test_what_is_not_finite_without_a_factor_is_not_hidden() -> None:
    """A worker whose loss is not a number would take steps of 0 for ever, at a factor of 0."""
    scale = LossScale(1, torch.device("cpu"))
    left_out = 0
    for _ in range(200):
        g = torch.full((1, 2), float("nan"))
        scale.unscale(g)
        left_out += g.isfinite().all().item()
    assert left_out == 16 and scale.factor.item() == 1  # it began at 2^16
    scale.unscale(g := torch.tensor([[3.0, 1e-7]]))
    assert g.tolist() == torch.tensor([[3.0, 1e-7]]).tolist()


def test_the_scale_grows_after_many_good_steps() -> None:
    scale = LossScale(1, torch.device("cpu"))
    for _ in range(LossScale.EVERY):
        assert scale.factor.item() == LossScale.FIRST
        scale.unscale(torch.ones(1, 1))
    assert (scale.factor.item(), scale.good.item()) == (2 * LossScale.FIRST, 0)


def test_fp16_finds_its_scale_and_goes_on_from_a_saved_one() -> None:
    """The loss times 2^40 overflows for a while, until halving has made it fit."""
    task = built(MLP, replicas="loop", precision="fp16")
    task._replicas.scale.factor.fill_(2.0**40)
    seen = [step(task)[1].abs().sum().item() for _ in range(40)]
    assert seen[0] == 0 and seen[-1] > 0
    assert task._replicas.scale.factor.max() < 2.0**40
    other = built(MLP, replicas="loop", precision="fp16")
    other.load_state_dict(task.state_dict())
    assert torch.equal(step(other)[1], step(task)[1])


def test_the_choice_on_a_gpu_is_measured_once_and_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, where nobody knows: a stopwatch decides, and a checkpoint keeps it."""
    from hpc_localsgd.tasks import flat

    monkeypatch.setattr(flat, "worth_vmapping", lambda *_: None)
    for slow, vmapped in (("_loop", True), ("_vmap", False)):
        task = built(CONV)
        assert task._replicas.vmapped is None
        assert "vmapped" not in task.state_dict()  # nothing is known yet
        monkeypatch.setattr(
            flat.Replicas, "_seconds", lambda _, way, *batch, slow=slow: way.__name__ == slow
        )
        state = torch.get_rng_state()
        losses, g = step(task)
        assert torch.equal(torch.get_rng_state(), state)
        assert task._replicas.vmapped is vmapped
        exact = step(built(CONV, replicas="vmap" if vmapped else "loop"))
        assert torch.equal(g, exact[1]) and torch.equal(losses, exact[0])
        other = built(CONV)
        other.load_state_dict(task.state_dict())
        assert other._replicas.vmapped is vmapped
        assert torch.equal(step(other)[1], g)
