"""Kinds of buffers of a model: a running statistic, something else that is saved, or a cache.

What a buffer means follows from its module and its name, not from its dtype: the mean of the
workers' running variances is a variance, but the mean of their power-iteration vectors
(`spectral_norm`) is shorter than a unit vector, and a mask or a table of positions must not be
averaged at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpc_localsgd.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Buffer:
    """One buffer, and where it hangs.

    Attributes:
        name: As `model.named_buffers()` has it.
        owner: The module that holds it.
        leaf: Its name there.
        tensor: The buffer.
        statistic: Whether it is averaged over the workers.
    """

    name: str
    owner: nn.Module
    leaf: str
    tensor: torch.Tensor
    statistic: bool

    @property
    def persistent(self) -> bool:
        """Whether it is saved with the model; what is not can be made again (a cache)."""
        return self.leaf not in self.owner._non_persistent_buffers_set

    @property
    def plain(self) -> bool:
        """Whether its numbers lie in memory one by one: not sparse, quantised or on "meta"."""
        t = self.tensor
        return t.layout is torch.strided and not t.is_quantized and not t.is_meta

    def values(self) -> torch.Tensor:
        """Return its numbers, each once: what `expand` repeats has one place in memory."""
        values = self.tensor.detach()
        for dim, stride in enumerate(values.stride()):
            if stride == 0 and values.shape[dim] > 1:
                values = values.narrow(dim, 0, 1)
        return values

    def __str__(self) -> str:
        """Return its name, shape and dtype, the same on all ranks that can exchange it."""
        return described(self.name, self.tensor)


def buffers_of(model: nn.Module, averaged: Sequence[str] = ()) -> list[Buffer]:
    """Return every buffer of a model once, in the order of their names.

    Args:
        model: Any module.
        averaged: Patterns of names (`*.codebook`) that are running statistics too.
    """
    return sorted(_walk(model, averaged), key=lambda buffer: buffer.name)


def check_patterns(model: nn.Module, averaged: Sequence[str]) -> None:
    """Check that every pattern finds a buffer that can be averaged.

    Raises:
        ConfigurationError: One does not.
    """
    if isinstance(averaged, str):
        raise ConfigurationError(
            f"averaged_buffers={averaged!r}: write a list, averaged_buffers=[{averaged!r}]"
        )
    real = [b.name for b in _walk(model, ("*",)) if b.plain and b.tensor.is_floating_point()]
    for pattern in averaged:
        if not any(fnmatchcase(name, pattern) for name in real):
            raise ConfigurationError(
                f"averaged_buffers: {pattern!r} matches no floating-point buffer of the "
                f"model, which has {', '.join(real[:8]) or 'none'}"
            )


def norms_of(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the modules whose running statistics can be re-estimated, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def described(name: str, tensor: torch.Tensor) -> str:
    """Format name, shape, dtype and layout in one line."""
    layout = "" if tensor.layout is torch.strided else f" {str(tensor.layout)[6:]}"
    return f"{name} {list(tensor.shape)} {tensor.dtype}{layout}"


def _walk(model: nn.Module, averaged: Sequence[str]) -> Iterator[Buffer]:
    seen = set()
    for prefix, module in model.named_modules():
        for leaf, tensor in module._buffers.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                name = f"{prefix}.{leaf}" if prefix else leaf
                # Modules of other libraries keep torch's word: running_mean, running_var.
                statistic = leaf.startswith("running_") or any(
                    fnmatchcase(name, pattern) for pattern in averaged
                )
                real = tensor.is_floating_point() and tensor.layout is torch.strided
                yield Buffer(name, module, leaf, tensor, statistic and real)
