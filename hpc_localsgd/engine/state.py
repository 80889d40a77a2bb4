"""The state of algorithms, optimisers and tasks: tensors in dicts and lists of any depth."""

from __future__ import annotations

from typing import Any

import torch


def moved(value: Any, device: torch.device, copy: bool = False) -> Any:
    """Return a state with its tensors on a device, `copy` for copies of those that are there."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(device, copy=copy)
    if isinstance(value, dict):
        return {k: moved(v, device, copy) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(v, device, copy) for v in value)
    return value
