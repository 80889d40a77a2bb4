"""BatchNorm's running statistics estimated anew, as the cumulative mean over some batches.

The one machinery of it: a task's evaluation and `attach` both run their batches inside `estimated`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def estimated(norms: Sequence[_BatchNorm], device: torch.device) -> Iterator[None]:
    """Take the statistics of `norms` from the batches that the model is called with inside.

    Random numbers, modes and momenta are afterwards what they were before, since measuring must
    not change what training draws next. A norm that no batch reached keeps its statistics; so do
    all if something is raised.

    Args:
        norms: Whose statistics begin anew.
        device: Where the model is, whose random numbers are kept.
    """
    before = [[buffer.clone() for buffer in _buffers(norm)] for norm in norms]
    settings = [(norm.training, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            # Not train(), which a model may override, and which is also for what is below.
            norm.training, norm.momentum = True, None  # torch's spelling of a cumulative mean
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    except BaseException:
        for norm, kept in zip(norms, before, strict=True):
            _copy_back(norm, kept)
        raise
    finally:
        for norm, (training, momentum) in zip(norms, settings, strict=True):
            norm.training, norm.momentum = training, momentum
    for norm, kept in zip(norms, before, strict=True):
        if norm.num_batches_tracked is not None and not int(norm.num_batches_tracked):
            _copy_back(norm, kept)


def _buffers(norm: _BatchNorm) -> list[torch.Tensor]:
    """List the buffers that a norm has."""
    return [buffer for buffer in norm._buffers.values() if buffer is not None]


@torch.no_grad()
def _copy_back(norm: _BatchNorm, kept: Sequence[torch.Tensor]) -> None:
    """Give a norm the values its buffers had."""
    for buffer, value in zip(_buffers(norm), kept, strict=True):
        buffer.copy_(value)
