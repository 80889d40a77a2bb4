"""Muon for workers that are rows: each worker's matrices are its own, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from muon_of_rows import muon, some_gradients, task
from small_runs import quadratic

from hpc_localsgd.engine.matrix_optimizer import MatrixOptimizer, runs
from hpc_localsgd.engine.optimizer import LocalOptimizer, described
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import Task, TaskContext
from hpc_localsgd.tasks.layout import Layout, hidden_matrices
from hpc_localsgd.tasks.text import text


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


def test_a_model_without_hidden_matrices_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="this model has none besides embeddings"):
        LocalOptimizer(muon, quadratic(dim=4).build(TaskContext(1, [0])))


def test_it_is_shown_by_its_name() -> None:
    made = LocalOptimizer(muon, task(1)).torch
    assert isinstance(made, MatrixOptimizer)
    assert described(made).startswith("Muon and AdamW(weight_decay=0.1, momentum=0.95")


def test_moments_of_both_may_have_periods_of_their_own() -> None:
    periods = {"momentum_buffer": 2, "exp_avg_sq": 4}
    LocalOptimizer(muon, task(2), "average", periods)
    with pytest.raises(ConfigurationError, match="no moment 'exp', but momentum_buffer, exp_avg"):
        LocalOptimizer(muon, task(2), "average", {"exp": 2})


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
