"""The loop: plain training with one worker, the equalities of the papers with several."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from small_runs import adam, go, sgd, small_run

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.engine.optimizer import MakeOptimizer
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.loop import Run
from hpc_localsgd.schedules.local_steps import post_local
from hpc_localsgd.schedules.rates import cosine
from hpc_localsgd.tasks.digits import digits

MOMENTUM = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}


def final(**options: Any) -> torch.Tensor:
    """Parameters [K, P] at the end of a small run."""
    return go(small_run(**options))[0].x.clone()


# One worker is plain training.


def plain_training(run: Run, make: MakeOptimizer, decay: float) -> torch.Tensor:
    """The same steps with a module, a DataLoader's batches and torch.optim: no code of the loop."""
    model = run.task._module(0).to(torch.float32)  # type: ignore[attr-defined]
    named = sorted(model.named_parameters(), key=lambda item: item[1].ndim < 2)
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = make(groups)
    for t in range(run.steps):
        inputs, labels = run.task.batch([0], t)
        for group in optimizer.param_groups:
            group["lr"] = run.rate(t)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[0]), labels[0]).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for _, p in named])


@pytest.mark.parametrize("H", [1, 4])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("fused", [False, None], ids=["plain", "fused"])
@pytest.mark.parametrize("named", ["sgd", "adam"])
def test_one_worker_is_torch_optim(named: str, norm: Any, H: int, fused: bool | None) -> None:
    """Bit for bit, unless torch is left to fuse the steps of a float32 vector."""
    options: dict[str, Any] = {"weight_decay": 1e-3, "fused": fused}
    make = sgd(**MOMENTUM | options) if named == "sgd" else adam(**options)
    spec = digits("conv", norm, hidden=8)
    rate = cosine(lr=0.05, warmup=3, until=12)
    run = small_run(spec=spec, K=1, H=H, steps=12, lr=rate, optimizer=make, dtype=torch.float32)
    expected = plain_training(run, make, decay=1e-3)
    start = run.task.x[0].clone()
    x = go(run)[0].x[0]
    if fused is False:
        assert torch.equal(x, expected)
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-4)
    assert (x - start).norm() > 0.1


# O1: H = 1.


@pytest.mark.parametrize("make", [sgd(), sgd(momentum=0.9), sgd(**MOMENTUM)])
def test_averaging_gradients_or_parameters_at_every_step_is_the_same_for_sgd(
    make: MakeOptimizer,
) -> None:
    options: dict[str, Any] = {"steps": 30, "optimizer": make}
    parameters = final(algorithm=LocalSGD(average="parameters"), **options)
    gradients = final(algorithm=LocalSGD(average="gradients"), **options)
    torch.testing.assert_close(parameters, gradients, rtol=0, atol=1e-12)
    torch.testing.assert_close(final(algorithm=AllReduce(), **options), gradients, rtol=0, atol=0)


def test_averaging_gradients_or_parameters_is_not_the_same_for_adam() -> None:
    options: dict[str, Any] = {"steps": 30, "optimizer": adam(), "lr": 0.01}
    parameters = final(algorithm=LocalSGD(average="parameters"), **options)
    gradients = final(algorithm=LocalSGD(average="gradients"), **options)
    assert (parameters - gradients).abs().max() > 1e-3


def test_parallel_adam_is_adam_on_the_mean_gradient() -> None:
    """Every worker keeps the same moments, as with hvd.DistributedOptimizer."""
    run = small_run(steps=10, optimizer=adam(), lr=0.01)
    reference = small_run(K=1, steps=10, optimizer=adam(), lr=0.01)
    for t in range(10):
        x = reference.task.x.expand(4, -1)
        _, g = run.task.loss_and_grad(x.clone(), run.task.batch(range(4), t))
        reference.optimizer.step(g.mean(0, keepdim=True), 0.01)
    run.task.x[:] = run.task.init(0)
    x = go(run)[0].x
    torch.testing.assert_close(x, reference.task.x.expand(4, -1), rtol=0, atol=1e-12)


def test_post_local_is_parallel_before_the_switch_and_not_after() -> None:
    schedule = post_local(switch=10, every=5)
    options: dict[str, Any] = {"optimizer": sgd(momentum=0.9)}
    assert torch.equal(final(H=schedule, steps=10, **options), final(H=1, steps=10, **options))
    after = final(H=schedule, steps=20, **options) - final(H=1, steps=20, **options)
    assert after.abs().max() > 1e-4


def test_after_local_steps_a_round_of_length_1_averages_parameters() -> None:
    """Momentum buffers differ then, so that averaging gradients would leave the workers apart."""
    run = small_run(H=4, steps=9, optimizer=sgd(momentum=0.9))
    x = go(run)[0].x
    assert torch.equal(x, x[:1].expand_as(x))


# Rounds.


def test_the_run_ends_with_an_exchange_and_reports_every_round() -> None:
    p, memory = go(small_run(H=4, steps=10))
    assert [(r["step_begin"], r["step_end"]) for r in memory.rounds] == [(0, 4), (4, 8), (8, 10)]
    assert (p.t, p.s) == (10, 2)
    assert torch.equal(p.x, p.x[:1].expand_as(p.x))


def test_an_algorithm_is_told_where_it_is() -> None:
    seen: list[tuple[str, Any]] = []

    class Watching(LocalSGD):
        def on_gradient(self, g, state, world, now):  # type: ignore[no-untyped-def]
            seen.append(("gradient", now))
            return super().on_gradient(g, state, world, now)

        def on_sync(self, x, state, world, now):  # type: ignore[no-untyped-def]
            seen.append(("sync", now))
            return super().on_sync(x, state, world, now)

    rate = cosine(lr=0.1, until=5)
    go(small_run(H=3, steps=5, lr=rate, algorithm=Watching()))
    assert [kind for kind, _ in seen] == ["gradient"] * 3 + ["sync"] + ["gradient"] * 2 + ["sync"]
    assert [n.t for _, n in seen] == [0, 1, 2, 2, 3, 4, 4]
    assert [n.h for _, n in seen] == [0, 1, 2, 2, 0, 1, 1]
    assert [(n.s, n.H) for _, n in seen] == [(0, 3)] * 4 + [(1, 2)] * 3
    assert [n.last for _, n in seen] == [False] * 4 + [True] * 3
    assert [n.lr for _, n in seen] == [rate(n.t) for _, n in seen]
    assert [n.lr_round for _, n in seen] == [rate(0)] * 4 + [rate(3)] * 3


def test_the_parameters_stay_in_the_task_s_storage() -> None:
    run = small_run(H=2, steps=4)
    assert go(run)[0].x.data_ptr() == run.task.x.data_ptr()


def test_more_workers_in_one_process_are_the_workers_of_several() -> None:
    """Worker 2 of 4 alone takes the steps it takes among the others, until the first exchange."""
    run = small_run(H=6, steps=6, optimizer=sgd(**MOMENTUM))
    single = small_run(K=1, H=6, steps=6, optimizer=sgd(**MOMENTUM))
    before: list[torch.Tensor] = []

    class Looking(LocalSGD):
        def on_sync(self, x, state, world, now):  # type: ignore[no-untyped-def]
            before.append(x.clone())
            return super().on_sync(x, state, world, now)

    go(replace(run, algorithm=Looking()))
    single.task.batch = lambda ranks, t: run.task.batch([2], t)  # type: ignore[method-assign]
    torch.testing.assert_close(go(single)[0].x[0], before[0][2], rtol=0, atol=1e-12)


def test_an_optimiser_that_mixes_the_workers_rows_is_refused() -> None:
    make = partial(torch.optim.Adafactor, lr=0.1)
    with pytest.raises(ConfigurationError, match="element-wise"):
        small_run(K=2, optimizer=make)


@pytest.mark.parametrize("name", ["AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta"])
def test_element_wise_optimisers_are_welcome(name: str) -> None:
    go(small_run(K=2, optimizer=partial(getattr(torch.optim, name), lr=0.1), steps=3))


def test_fused_kernels_are_refused_where_workers_are_rows() -> None:
    """They take a matrix for one piece of memory, and its rows have gaps: wrong, without a word."""
    with pytest.raises(ConfigurationError, match="--optimizer.fused true .* 2 workers"):
        small_run(K=2, optimizer=partial(torch.optim.SGD, lr=0.1, fused=True))
    go(small_run(K=1, optimizer=partial(torch.optim.SGD, lr=0.1, fused=True), steps=3))
