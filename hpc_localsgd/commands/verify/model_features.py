"""What a user's model has that averaging must treat with care, and how it is treated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

from hpc_localsgd.commands.verify.problem import Problem
from hpc_localsgd.commands.verify.rows import Feature
from hpc_localsgd.commands.verify.users_model import TakesIntegers

SHOWN = 2  # names; the rest are counted


def features_of(problem: Problem) -> list[Feature]:
    """List what the model has and lacks, a line each."""
    module = problem.module
    if isinstance(module, TakesIntegers):
        module = module.module
    return [
        _batchnorm(module),
        _dropout(module),
        _integer_buffers(module),
        _tied(module),
        _frozen(module),
        _mixed(module),
    ]


def _batchnorm(module: nn.Module) -> Feature:
    kind = nn.modules.batchnorm._BatchNorm
    count = sum(isinstance(m, kind) and m.track_running_stats for m in module.modules())
    return _feature(
        "BatchNorm",
        count,
        "statistics stay with each worker, and are re-estimated on training batches before an "
        "evaluation (--batchnorm)",
    )


def _dropout(module: nn.Module) -> Feature:
    count = sum(_drops(m) for m in module.modules())
    return _feature(
        "dropout",
        count,
        "each worker draws from a stream of its own, which checkpoints keep on any number of ranks",
    )


def _drops(module: nn.Module) -> bool:
    """Return whether a module draws dropout: its own layer, or an LSTM or attention with a rate."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    rate = getattr(module, "dropout", 0)
    return isinstance(rate, float) and rate > 0


def _integer_buffers(module: nn.Module) -> Feature:
    names = [name for name, b in module.named_buffers() if not b.is_floating_point()]
    return _feature(
        "integer buffers",
        len(names),
        f"each worker's own, never averaged, not in checkpoints: {_list(names)}",
    )


def _tied(module: nn.Module) -> Feature:
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    tied = [" = ".join(same) for same in names.values() if len(same) > 1]
    return _feature(
        "tied parameters", len(tied), f"one place in the flat vector, sent once: {_list(tied)}"
    )


def _frozen(module: nn.Module) -> Feature:
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    numbers = sum(p.numel() for p in frozen.values())
    return _feature(
        "frozen parameters",
        len(frozen),
        f"{numbers:,} numbers left out: not sent, no weight decay, not in checkpoints (the model "
        f"must come with them): {_list(list(frozen))}",
    )


def _mixed(module: nn.Module) -> Feature:
    names = sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})
    count = len(names) if len(names) > 1 else 0
    return _feature("mixed types", count, f"{', '.join(names)}: all become that of --dtype")


def stays(module: nn.Module) -> Iterable[torch.Tensor]:
    """Yield what is never sent: frozen parameters, and buffers of whole numbers."""
    yield from (p for p in module.parameters() if not p.requires_grad)
    yield from (b for b in module.buffers() if not b.is_floating_point())


def _feature(name: str, count: int, text: str) -> Feature:
    return Feature(name, count, text if count else "")


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
