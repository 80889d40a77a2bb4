"""A worker's own model, kept while the mean model is in its place, and restored bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hpc_localsgd.attach.buffers import Buffer, buffers_of
from hpc_localsgd.attach.storage import Group


class BufferBackup:
    """A copy of a model's buffers.

    A cache (not persistent) that was made again meanwhile, or a buffer that has another size since,
    is left as it is: what the module remembers of it (its length, say) fits the new one.
    """

    def __init__(self, model: nn.Module, but: Sequence[torch.Tensor] = ()) -> None:
        """Copy them all but some."""
        without = {id(tensor) for tensor in but}
        found = [b for b in buffers_of(model) if id(b.tensor) not in without]
        self._kept = [(b, b.tensor.shape, b.values().clone() if b.plain else None) for b in found]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the copies back, into the tensors they were taken from."""
        for buffer, shape, copy in self._kept:
            now = buffer.owner._buffers.get(buffer.leaf)
            if now is None or now.shape != shape:
                continue
            if now is not buffer.tensor:
                if not buffer.persistent:
                    continue
                buffer.owner._buffers[buffer.leaf] = buffer.tensor
            if copy is not None and buffer.tensor.shape == shape:
                _put(buffer, copy)


def _put(buffer: Buffer, copy: torch.Tensor) -> None:
    values = buffer.values()
    if not torch.equal(values, copy):  # a constant may be in memory that cannot be written
        values.copy_(copy)


class ModelBackup:
    """A worker's own parameters, buffers, and the mode of every module."""

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self._model, self._groups = model, groups
        self._parts = [[part.clone() for part in group.parts] for group in groups]
        self._buffers = BufferBackup(model)
        self._modes = [(module, module.training) for module in model.modules()]
        self._training = model.training
        self._others: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy further tensors, before they are changed."""
        self._others += [(tensor, tensor.detach().clone()) for tensor in tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, modes as well unless training was switched on meanwhile."""
        for group, kept in zip(self._groups, self._parts, strict=True):
            for part, copy in zip(group.parts, kept, strict=True):
                part.copy_(copy)
        for tensor, copy in self._others:
            tensor.copy_(copy)
        self._buffers.restore()
        if self._training or not self._model.training:
            for module, mode in self._modes:
                module.training = mode
