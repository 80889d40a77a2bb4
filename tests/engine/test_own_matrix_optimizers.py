"""Optimisers of one's own that look at matrices: what they may keep of one, and what not."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from muon_of_rows import muon, some_gradients, task

from hpc_localsgd.engine.matrix_optimizer import looks_at_matrices, runs
from hpc_localsgd.engine.optimizer import LocalOptimizer
from hpc_localsgd.errors import ConfigurationError


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
