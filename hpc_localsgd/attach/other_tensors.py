"""Tensors that rounds do not exchange: which all ranks have, which differ, how to equalise them.

Every function is a collective, not billed. What is sent goes in parts of bounded size, so that a
large frozen model does not cost further copies of itself.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.attach.checksum import checksum
from hpc_localsgd.attach.storage import wire_dtype

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

PART_BYTES = 16 * 2**20


def in_common(world: World, lines: Sequence[str]) -> list[bool]:
    """Return, for each of this rank's lines, all different, whether all ranks have it."""
    hashes = [int.from_bytes(hashlib.sha256(line.encode()).digest()[:7], "big") for line in lines]
    whole = int.from_bytes(hashlib.sha256(repr(hashes).encode()).digest()[:7], "big")
    rows = world.gather(np.array([[len(lines), whole]], dtype=np.int64))
    if (rows == rows[0]).all():
        return [True] * len(lines)
    padded = np.full((1, int(rows[:, 0].max())), -1, dtype=np.int64)
    padded[0, : len(hashes)] = hashes
    everybody = set(hashes).intersection(*(row.tolist() for row in world.gather(padded)))
    return [each in everybody for each in hashes]


def differ(world: World, tensors: Sequence[torch.Tensor]) -> list[bool]:
    """Return, for each tensor, as many on all ranks, whether its bits differ between two."""
    if not tensors:
        return []
    sums = np.array([[checksum(t.contiguous()) if t.numel() else 0 for t in tensors]])
    rows = world.gather(sums)
    found: list[bool] = (rows != rows[0]).any(0).tolist()
    return found


@torch.no_grad()
def average(world: World, tensors: Sequence[torch.Tensor]) -> None:
    """Replace real tensors by their average over the ranks, in place."""
    for wide in (torch.float32, torch.float64):
        alike = [t for t in tensors if wire_dtype(t.dtype) == wide]
        for part in _parts(alike, wide.itemsize):
            flat = torch.cat([t.reshape(-1).to(world.device, wide) for t in part])
            world.mean(flat[None])
            for tensor, new in zip(part, flat.split([t.numel() for t in part]), strict=True):
                tensor.copy_(new.view(tensor.shape))


@torch.no_grad()
def take_rank_0s(world: World, tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors of any dtype by those of rank 0, in place."""
    for part in _parts(tensors, None):
        raw = [t.contiguous().view(-1).view(torch.uint8).to(world.device) for t in part]
        received = world.broadcast(torch.cat(raw)[None])[0].split([len(r) for r in raw])
        for tensor, came in zip(part, received, strict=True):
            own = torch.empty(tensor.shape, dtype=tensor.dtype)  # aligned for its dtype
            own.view(-1).view(torch.uint8).copy_(came)
            tensor.copy_(own)


def _parts(tensors: Sequence[torch.Tensor], itemsize: int | None) -> Iterator[list[torch.Tensor]]:
    """Yield lists of views of the tensors, PART_BYTES at most where memory is contiguous."""
    part: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        detached, unit = tensor.detach(), itemsize or tensor.element_size()
        cut = detached.is_contiguous() and detached.numel() > 0
        for piece in detached.view(-1).split(PART_BYTES // unit) if cut else [detached]:
            if part and size + piece.numel() * unit > PART_BYTES:
                yield part
                part, size = [], 0
            if piece.numel():
                part.append(piece)
                size += piece.numel() * unit
    if part:
        yield part


def warn_of_same_batches(steps: int) -> None:
    """Warn that local steps were the same on all ranks."""
    warnings.warn(
        f"after {steps} local steps all ranks hold the same parameters, bit for bit: they train on "
        "the same batches; give each rank its own share (DistributedSampler, or a seed that "
        "depends on the rank); or their optimizer exchanges parameters at every step by itself "
        "(a Muon for several GPUs): take its form for one",
        stacklevel=2,
    )
