"""Muon, the workers of a small task, and gradients to step by."""

from __future__ import annotations

from functools import partial

import torch

from hpc_localsgd.tasks.base import Task, TaskContext
from hpc_localsgd.tasks.digits import digits

muon = partial(torch.optim.Muon, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")


def task(R: int = 3) -> Task:
    made = digits().build(TaskContext(4, range(R), batch=8, dtype=torch.float64))
    made.x[:] = made.init(0)
    return made


def some_gradients(of: Task, n: int = 4) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(of.x.shape, generator=draw, dtype=torch.float64) for _ in range(n)]
