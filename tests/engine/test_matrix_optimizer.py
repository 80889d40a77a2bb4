"""Muon for workers that are rows: each worker's matrices are its own, bit for bit."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import go, quadratic, small_run

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.diloco import DiLoCo
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.engine.matrix_optimizer import MatrixOptimizer, looks_at_matrices, runs
from hpc_localsgd.engine.optimizer import LocalOptimizer, described
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.checkpoint import RankCheckpoint, shard, vetting
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.tasks.base import Task, TaskContext
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.layout import Layout, hidden_matrices
from hpc_localsgd.tasks.text import text

muon = partial(torch.optim.Muon, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")


def task(R: int = 3) -> Task:
    made = digits().build(TaskContext(4, range(R), batch=8, dtype=torch.float64))
    made.x[:] = made.init(0)
    return made


def separately(of: Task, gradients: list[torch.Tensor], lr: float) -> torch.Tensor:
    """The same steps of workers alone, by torch.optim.Muon and AdamW on tensors of their own."""
    rows = []
    for r in range(len(of.x)):
        tensors = [torch.nn.Parameter(t.clone()) for t in of.x[r].split(of.sizes)]
        shaped = [
            torch.nn.Parameter(t.detach().view(shape)) if shape else t
            for t, shape in zip(tensors, of.matrices, strict=True)
        ]
        hidden = [p for p, shape in zip(shaped, of.matrices, strict=True) if shape]
        ends = np.cumsum(of.sizes)
        rest = [(p, end) for p, s, end in zip(shaped, of.matrices, ends, strict=True) if not s]
        adam = torch.optim.AdamW(
            [
                {"params": [p for p, end in rest if end <= of.decayed], "weight_decay": 0.1},
                {"params": [p for p, end in rest if end > of.decayed], "weight_decay": 0.0},
            ],
            lr=lr,
        )
        each = torch.optim.Muon(hidden, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for g in gradients:
            for p, part in zip(shaped, g[r].split(of.sizes), strict=True):
                p.grad = part.view_as(p).clone()
            adam.step()
            each.step()
        rows.append(torch.cat([p.detach().reshape(-1) for p in shaped]))
    return torch.stack(rows)


def some_gradients(of: Task, n: int = 4) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(of.x.shape, generator=draw, dtype=torch.float64) for _ in range(n)]


@pytest.mark.parametrize("R", [1, 3])
def test_workers_in_one_process_step_as_each_would_alone(R: int) -> None:
    of = task(R)
    gradients = some_gradients(of)
    expected, begun = separately(of, gradients, 0.02), of.x.clone()
    made = LocalOptimizer(muon, of)
    for g in gradients:
        made.step(g, 0.02)
    torch.testing.assert_close(of.x, expected, rtol=0, atol=1e-12)
    assert (of.x - begun).abs().max() > 1e-2
    if R > 1:
        assert not torch.equal(of.x[0], of.x[1])


def test_which_matrices_are_of_hidden_layers() -> None:
    """Not embeddings, nor the read-out, nor what is no matrix."""
    of = text(model="transformer").build(TaskContext(1, [0], batch=2))
    named = dict(zip(of.layout.names, of.matrices, strict=True))  # type: ignore[attr-defined]
    hidden = {name for name, shape in named.items() if shape}
    assert hidden and all(name.startswith("blocks.") and "norm" not in name for name in hidden)
    assert named["embedding.weight"] is named["position.weight"] is named["readout.weight"] is None
    assert sum(named[name] is not None for name in named if name.endswith("linear1.weight")) > 1
    covered = [(a, b) for a, b, _ in runs(of)]
    assert covered[0][0] == 0 and covered[-1][1] == of.dim
    assert all(end == begin for (_, end), (begin, _) in zip(covered, covered[1:], strict=False))


def test_what_it_remembers_has_a_row_for_each_worker() -> None:
    of = task()
    made = LocalOptimizer(muon, of)
    first, second = some_gradients(of, 2)
    made.step(first, 0.02)
    saved = copy.deepcopy(made.state_dict())
    kept = of.x.clone()
    state = [t for each in saved["state"].values() for t in each.values() if t.ndim]
    assert state and all(len(t) == 3 for t in state)
    made.step(second, 0.02)
    once = of.x.clone()
    of.x[:] = kept
    other = LocalOptimizer(muon, of)
    other.load_state_dict(saved)
    other.step(second, 0.02)
    assert torch.equal(of.x, once)
    other.forget(np.array([False, True, False]))
    for tensor in (t for each in other.state_dict()["state"].values() for t in each.values()):
        if tensor.ndim:
            assert not tensor[1].any() and tensor[0].any()


class Turned(torch.optim.Optimizer):
    """An optimiser of one's own that looks at matrices, replaces its memory, and counts."""

    looks_at_matrices = True

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["sum"] = state.get("sum", torch.zeros_like(p)) + p.grad
                state["n"] = self.counted(state.get("n", torch.zeros((), dtype=p.dtype)))
                p -= group["lr"] / state["n"] * state["sum"] / state["sum"].norm()

    @staticmethod
    def counted(n: torch.Tensor) -> torch.Tensor:
        return n + 1


class CountsInPlace(Turned):
    """Counts as torch's own do: were one number shared, each matrix would count for all."""

    @staticmethod
    def counted(n: torch.Tensor) -> torch.Tensor:
        return n.add_(1)


@pytest.mark.parametrize("kind", [Turned, CountsInPlace])
def test_a_class_of_one_s_own_declares_it(kind: type[Turned]) -> None:
    of = task(2)
    gradients, x = some_gradients(of), of.x.clone()
    made = LocalOptimizer(kind, of)
    for g in gradients:
        made.step(g, 0.1)
    begin, end, shapes = next(run for run in runs(of) if run[2])
    assert len(shapes) == 1
    for r in range(2):
        total, expected = torch.zeros(end - begin).double(), x[r, begin:end].clone()
        for n, g in enumerate(gradients):
            total += g[r, begin:end]
            expected -= 0.1 / (n + 1) * total / total.norm()
        torch.testing.assert_close(of.x[r, begin:end], expected, rtol=0, atol=1e-12)
    assert looks_at_matrices(Turned) and looks_at_matrices(muon)
    assert not looks_at_matrices(partial(torch.optim.AdamW, lr=0.1))


def test_what_steps_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a copy of the optimiser steps parameters of its own."""
    of = task(2)
    g = some_gradients(of, 1)[0]
    made = LocalOptimizer(muon, of)
    made.step(g, 0.02)
    copied, kept = copy.deepcopy(made.torch), of.x.clone()

    def anew(*given: Any, **named: Any) -> None:
        raise AssertionError("an optimiser is made at a step")

    with monkeypatch.context() as patched:
        for kind in (torch.optim.Muon, torch.optim.AdamW):
            patched.setattr(kind, "__init__", anew)
        made.step(g, 0.02)
    stepped = of.x.clone()
    for group in copied.param_groups:
        group["params"][0].grad = torch.ones_like(group["params"][0])
    copied.step()
    assert torch.equal(of.x, stepped) and not torch.equal(stepped, kept)


class PerNeuron(torch.optim.Optimizer):
    """Keeps a number for each row of a matrix, which is of no shape that rows have."""

    looks_at_matrices = True

    kept: int | None = None  # neurons; None for all

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                assert p.grad is not None
                self.state[p]["size"] = p.grad.norm(dim=1, keepdim=True)[: self.kept]


@pytest.mark.parametrize("kept", [None, 2])
def test_what_is_neither_one_number_nor_of_the_shape_of_a_matrix_is_refused(
    kept: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = task(2)
    monkeypatch.setattr(PerNeuron, "kept", kept)
    optimizer = LocalOptimizer(PerNeuron, made)
    with pytest.raises(ConfigurationError, match="PerNeuron keeps 'size' of shape"):
        optimizer.step(torch.randn_like(made.x), 0.1)


def test_a_model_without_hidden_matrices_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="this model has none besides embeddings"):
        LocalOptimizer(muon, quadratic(dim=4).build(TaskContext(1, [0])))


def test_it_is_shown_by_its_name() -> None:
    made = LocalOptimizer(muon, task(1)).torch
    assert isinstance(made, MatrixOptimizer)
    assert described(made).startswith("Muon and AdamW(weight_decay=0.1, momentum=0.95")


def test_its_moments_are_averaged_like_others() -> None:
    run = small_run(spec=digits(), K=2, H=4, steps=8, optimizer=muon, at_sync="average", lr=0.02)
    go(run)
    for each in run.optimizer.torch.state.values():
        for tensor in each.values():
            assert tensor.ndim == 0 or torch.equal(tensor[0], tensor[1])


def test_moments_of_both_may_have_periods_of_their_own() -> None:
    periods = {"momentum_buffer": 2, "exp_avg_sq": 4}
    LocalOptimizer(muon, task(2), "average", periods)
    with pytest.raises(ConfigurationError, match="no moment 'exp', but momentum_buffer, exp_avg"):
        LocalOptimizer(muon, task(2), "average", {"exp": 2})


def test_workers_of_one_step_rounds_are_one_worker_with_all_batches() -> None:
    """Parallel Muon: the averaged gradient is the same, so is its orthogonalised matrix."""
    runs = [
        small_run(spec=digits(), K=2, H=1, steps=6, optimizer=muon, lr=0.02, algorithm=algorithm)
        for algorithm in (AllReduce(), LocalSGD())
    ]
    one, other = (go(run)[0].x for run in runs)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [muon, partial(torch.optim.AdamW, lr=0.02)], ids=["muon", "adam"])
def test_snoo_is_outer_momentum_of_a_lone_worker(make: Any) -> None:
    """K = 1: nothing is sent, and every H steps Nesterov momentum acts on what they did."""
    H, rounds, mu = 3, 4, 0.6
    options = {"spec": digits(), "K": 1, "lr": 0.02, "optimizer": make}
    run = small_run(algorithm=DiLoCo(lr=0.7, momentum=mu), H=H, steps=H * rounds, **options)
    found, memory = go(run)
    assert sum(np.sum(row["payload_bytes"]) for row in memory.rounds) == 0
    of = small_run(H=H, steps=H * rounds, **options)
    of.task.x[:] = of.task.init(0)
    anchor, v = of.task.x.clone(), torch.zeros_like(of.task.x)
    for t in range(H * rounds):
        _, g = of.task.loss_and_grad(of.task.x, of.task.batch([0], t))
        of.optimizer.step(g, of.rate(t))
        if (t + 1) % H == 0:
            delta = anchor - of.task.x
            v = mu * v + delta
            anchor = anchor - 0.7 * (delta + mu * v)
            of.task.x[:] = anchor
    torch.testing.assert_close(found.x, anchor, rtol=0, atol=1e-12)


def test_interrupted_and_resumed_is_uninterrupted_bitwise(tmp_path: Path) -> None:
    """Whatever a checkpoint holds of it is whole, of the run's workers, and goes on."""
    options = {"spec": digits(), "K": 2, "H": 4, "lr": 0.02, "optimizer": muon}
    whole = go(small_run(steps=8, algorithm=DiLoCo(), **options))[0].x.clone()
    first = small_run(steps=8, algorithm=DiLoCo(), **options)
    shard.write(tmp_path / "shard.pt", RankCheckpoint.of(first, until(first, 6), after=0).state)
    second = small_run(steps=8, algorithm=DiLoCo(), **options)
    place = RankCheckpoint.saved(shard.read(tmp_path / "shard.pt"))
    vetting.check_place(place, second, second.beginning())
    q = place.restore(second, second.beginning())
    assert torch.equal(train(second, q, Recorder(second)).x, whole)


class Stop(Exception):
    """Raised after a given step."""


def until(run: Run, at: int) -> Position:
    """The position after `at` steps."""

    class Until(Recorder):
        def measure(self, p: Position) -> None:
            self.place = p
            if p.t == at:
                raise Stop

    record = Until(run)
    with pytest.raises(Stop):
        train(run, run.beginning(), record)
    return record.place


@pytest.mark.parametrize("tied", [False, True])
def test_a_read_out_that_is_the_embedding_leaves_the_last_matrix_a_hidden_one(tied: bool) -> None:
    module = torch.nn.Sequential(
        torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9, bias=False)
    )
    if tied:
        module[2].weight = module[0].weight
    layout = Layout.of(module)
    hidden = hidden_matrices(module, layout)
    assert dict(zip(layout.names, hidden, strict=True)) == {
        "0.weight": None,
        "1.weight": (4, 4),
        **({} if tied else {"2.weight": None}),
        "1.bias": None,
    }
