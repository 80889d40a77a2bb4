"""BatchNorm's running statistics re-estimated on training batches, and nothing else changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.running_statistics import estimated

Forward: TypeAlias = Callable[[nn.Module, Any], Any]  # calls a model with a batch


@torch.no_grad()
def estimate(
    model: nn.Module,
    norms: Sequence[_BatchNorm],
    batches: Iterable[Any],
    forward: Forward | None,
    device: torch.device,
) -> int:
    """Leave in `norms` the cumulative mean over one worker's batches; dropout as it is.

    Random numbers, other buffers, modes and momenta are afterwards what they were before. A norm
    that no batch reached keeps its statistics; so do all if something is raised.

    Returns:
        Batches used.
    """
    seen = 0
    with estimated(norms, device):
        for batch in batches:
            _call(model, to_device(batch, device), forward)
            seen += 1
    return seen


def to_device(batch: Any, device: torch.device) -> Any:
    """Take a batch with its tensors to a device: dicts, lists and tuples of any depth."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        moved_dict = copy.copy(batch)  # of its own class
        moved_dict.update({key: to_device(value, device) for key, value in batch.items()})
        return moved_dict
    if isinstance(batch, list):
        return [to_device(value, device) for value in batch]
    if isinstance(batch, tuple):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)
    return batch.to(device) if hasattr(batch, "to") else batch


def _call(model: nn.Module, batch: Any, forward: Forward | None) -> None:
    if forward is not None:
        forward(model, batch)
        return
    what = f"a {type(batch).__name__}"
    if isinstance(batch, list | tuple) and batch:
        batch, what = batch[0], f"the first element of {what}"
    try:
        if isinstance(batch, Mapping):
            raise TypeError("a dict does not say how the model is called with it")
        model(batch)
    except Exception as error:
        raise ConfigurationError(
            f"batches: the model cannot be called with {what} ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); give a function that calls it: "
            "averaged(batches=loader, forward=lambda model, batch: model(batch['x'])), or for a "
            "model of two inputs model(batch[0], batch[1])"
        ) from error
