"""Every gradient method of the folder, and small tasks to wrap with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest
import torch

from hpc_localsgd.commands.configuration.config import choices
from hpc_localsgd.gradients.average_direction import average_direction
from hpc_localsgd.gradients.base import GradientAt
from hpc_localsgd.gradients.plain import plain
from hpc_localsgd.tasks.base import Task, TaskContext
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated

K = 4
MLP = digits(hidden=8)
CONV = digits(model="conv", norm="batch", hidden=8)  # with running statistics


def class_of(path: str) -> type[GradientAt]:
    module, name = path.rsplit(".", 1)
    return getattr(import_module(module), name)


CLASSES = [class_of(path) for path in choices("gradient").values()]
METHODS = [*(made() for made in CLASSES), average_direction(sigma="measured")]
MOVING = [method for method in METHODS if method != plain()]


def strength(method: GradientAt | type[GradientAt]) -> str | None:
    """The field that, at 0, makes a method plain."""
    names = {f.name for f in fields(method)}  # type: ignore[arg-type]
    return next((name for name in ("rho", "sigma") if name in names), None)


def every(methods: Sequence[Any]) -> Any:
    return pytest.mark.parametrize("method", methods, ids=repr)


def task_of(spec: digits = MLP, workers: Sequence[int] = range(K), seed: int = 0) -> Task:
    """Workers of a run of K that are apart from each other, in float64."""
    task = spec.build(TaskContext(K, workers, batch=8, seed=seed, dtype=torch.float64))
    apart = [
        torch.randn(task.dim, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        for k in workers
    ]
    task.x[:] = task.init(seed) + 0.01 * torch.stack(apart)
    return task


def wrapped(method: GradientAt, task: Task, world: World | None = None, seed: int = 0) -> Task:
    return method.wrap(task, world or Simulated(K), seed)


def gradient(task: Task, t: int = 7, workers: Sequence[int] = range(K)) -> list[torch.Tensor]:
    """Losses and gradients at the task's own x, copied out of the storage."""
    return [part.clone() for part in task.loss_and_grad(task.x, task.batch(workers, t))]


def same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))
