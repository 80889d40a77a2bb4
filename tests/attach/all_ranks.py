"""What all ranks must have or say alike."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.base import World


def everyone_equal(world: World, x: torch.Tensor) -> None:
    rows = world.gather(x.detach().double().numpy()[None])
    assert np.array_equal(rows[0], rows[1]), np.abs(rows[0] - rows[1]).max()


def close(one: torch.Tensor, other: torch.Tensor, rtol: float, atol: float) -> None:
    """Compare as torch.testing does, which loads DTensor for that: half a second of every rank."""
    assert one.dtype == other.dtype and one.shape == other.shape
    assert torch.allclose(one, other, rtol, atol), (one - other).abs().max()


def same_complaint(world: World, work: Callable[[], object], said: str) -> None:
    try:
        work()
    except ConfigurationError as error:
        text = str(error)
    else:
        raise AssertionError(f"nothing was wrong, instead of: {said}")
    assert said in text, text
    digest = float(sum(text.encode()))
    assert np.ptp(world.gather(np.array([[digest]]))) == 0


def folder_of_all() -> str:
    """A new folder, the same on all ranks of torch.distributed."""
    said = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(said)
    return str(said[0])
