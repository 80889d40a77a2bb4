"""Losses whose Hessians are known: the digits with few hidden units, matrices, polynomials."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from hpc_localsgd.curvature import Risk, build_for_curvature, in_chunks, pieces
from hpc_localsgd.tasks.base import Batch
from hpc_localsgd.tasks.digits import digits

SAMPLES = 200


class Formula:
    """Stands in for a task: any function of one vector, and one sample."""

    def __init__(self, loss: Callable[[torch.Tensor], torch.Tensor], dim: int) -> None:
        self.formula, self.dim = loss, dim
        self.buffers = torch.empty(1, 0, dtype=torch.float64)

    def loss(self, x: torch.Tensor, batch: Batch, buffers: Any = None) -> torch.Tensor:
        return self.formula(x)


def risk_of(loss: Callable[[torch.Tensor], torch.Tensor], dim: int) -> Risk:
    task: Any = Formula(loss, dim)
    return Risk(task, [(torch.zeros(1), torch.zeros(1))])


def multiplier(A: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda V: V @ A


def mlp_risk(
    dtype: torch.dtype = torch.float64, chunk: int = 64, rank: int = 0, ranks: int = 1
) -> Risk:
    """One rank's share of 200 digits under an MLP with 3 hidden units: P = 235."""
    task = build_for_curvature(digits(hidden=3), batch=16, seed=5, dtype=dtype)
    return Risk(task, in_chunks(pieces(task, SAMPLES, rank, ranks), chunk), SAMPLES)


@cache
def trained() -> torch.Tensor:
    """Parameters after some gradient steps, where the spectrum has a few large values."""
    risk = mlp_risk()
    x = risk.task.init(0)
    for _ in range(60):
        x = x - 0.5 * risk.gradient(x)
    return x


@cache
def dense() -> torch.Tensor:
    """The whole Hessian there, row by row by autograd, on all samples in one batch."""
    risk = mlp_risk()
    batch = (torch.cat([i for i, _ in risk.chunks]), torch.cat([t for _, t in risk.chunks]))

    def loss(x: torch.Tensor) -> torch.Tensor:
        return risk.task.loss(x, batch)

    return torch.autograd.functional.hessian(loss, trained())
