"""Every task of the folder, small, with each of its named choices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from small_tasks import small_options

from hpc_localsgd.commands.configuration.config import choices
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.digits import digits
from hpc_localsgd.tasks.formula import Formula

K, B = 4, 6
CONTEXT = TaskContext(workers=K, local_workers=range(K), batch=B, seed=3, dtype=torch.float64)


def variants() -> Iterator[TaskSpec]:
    """Every task of the folder, with every combination of its named choices (Literal fields)."""
    small = small_options()
    for path in choices("task").values():
        module, _, name = path.rpartition(".")
        fixed = small.get(name, {})
        made = [getattr(import_module(module), name)(**fixed)]
        for field, hint in get_type_hints(type(made[0])).items():
            if field not in fixed and get_origin(hint) is Literal:
                made = [
                    replace(spec, **{field: value}) for spec in made for value in get_args(hint)
                ]
        yield from (spec for spec in made if not is_another(spec))


def is_another(spec: TaskSpec) -> bool:
    """Whether a choice changes nothing: of the nets of the digits, one has a norm."""
    return isinstance(spec, digits) and spec.model != "conv" and spec.norm != digits().norm


def title(spec: TaskSpec) -> str:
    """A short name: the task and its named choices."""
    hints = get_type_hints(type(spec))
    named = [str(getattr(spec, f)) for f, hint in hints.items() if get_origin(hint) is Literal]
    return "-".join([type(spec).__name__, *named])


def says_batchnorm(spec: TaskSpec) -> bool:
    """Whether its options ask for BatchNorm."""
    return getattr(spec, "norm", "none") in ("batch", "ghost")


def is_formula(spec: TaskSpec) -> bool:
    """Whether it is no torch module."""
    return issubclass(get_type_hints(type(spec).build)["return"], Formula)


SPECS = list(variants())
every_task = pytest.mark.parametrize("spec", SPECS, ids=title)
MODULES = [spec for spec in SPECS if not is_formula(spec)]
every_module = pytest.mark.parametrize("spec", MODULES, ids=title)


def built(spec: TaskSpec, **changes: Any) -> Any:
    task = spec.build(replace(CONTEXT, **changes))
    task.x[:] = task.init(CONTEXT.seed)
    return task


def moved_apart(task: Any) -> Any:
    """Workers as they are in the middle of a round."""
    stream = torch.Generator().manual_seed(5)
    task.x.add_(torch.randn(task.x.shape, generator=stream, dtype=task.x.dtype), alpha=0.02)
    return task


def of_worker(batch: Any, r: int) -> Any:
    return batch[0][r], batch[1][r]


def has_batchnorm(task: Any) -> bool:
    return bool(task.buffers.numel())
