"""What the ranks of an `attach` must agree on, as lines of text to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass

import torch
from torch import nn

from hpc_localsgd.attach.buffers import buffers_of
from hpc_localsgd.attach.checksum import checksum
from hpc_localsgd.attach.shards import local

SAME_OBJECTS = (
    "build the same model, optimizer and schedule on every rank and attach before loading each "
    "rank's own checkpoint (or take rank 0's: broadcast_optimizer=True)"
)


def shown(what: object) -> str:
    """Return a repr that is the same on all ranks: functions by name, not by address."""
    if is_dataclass(what) or isinstance(what, int | float | str | tuple | list | None):
        return repr(what)
    return str(getattr(what, "__qualname__", type(what).__qualname__))


def described(model: nn.Module, trained: Sequence[str]) -> list[str]:
    """Describe each parameter and saved buffer: name, shape, dtype, whether it is exchanged.

    Of a buffer that cannot be sent (a sparse one) also what it holds.
    """
    exchanged = set(trained)
    lines = [
        f"parameter {n} {list(p.shape)} {p.dtype} {'trained' if n in exchanged else 'frozen'}"
        for n, p in model.named_parameters()
    ]
    saved = [buffer for buffer in buffers_of(model) if buffer.persistent]
    return lines + [f"buffer {b}{'' if b.plain else sparse_sum(b.tensor)}" for b in saved]


def sparse_sum(tensor: torch.Tensor) -> str:
    """Return where a sparse tensor has values, and which; "" for what has no memory."""
    if tensor.layout is torch.strided:
        return ""
    whole = tensor.detach().to_sparse_coo().coalesce()
    sums = [checksum(part.contiguous()) for part in (whole.indices(), whole.values())]
    return f" with checksum {sums}"


def described_options(optimizer: torch.optim.Optimizer) -> list[str]:
    """Describe each hyper-parameter of each parameter group, a line each."""
    lines = [f"optimizer {type(optimizer).__name__}"]
    for number, group in enumerate(optimizer.param_groups):
        for name, value in group.items():
            plain = value.item() if isinstance(value, torch.Tensor) else value
            if name != "params":
                lines.append(f"optimizer group {number} with {name}={shown(plain)}")
    return lines


def described_state(optimizer: torch.optim.Optimizer) -> list[str]:
    """Describe each state tensor of the optimiser, with a checksum of its bits, a line each."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [
        f"optimizer state {name} of parameter {i} with checksum "
        f"{checksum(local(value).contiguous())}"
        for i, parameter in enumerate(parameters)
        for name, value in sorted(optimizer.state.get(parameter, {}).items())
        if isinstance(value, torch.Tensor)
    ]
