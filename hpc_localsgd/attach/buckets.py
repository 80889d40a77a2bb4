"""Buckets: contiguous parts of a flat vector of gradients, averaged one by one.

The vector of a group of n tensors is [n + P]: a flag for each tensor, which tells whether any rank
has a gradient for it, then the gradients. Buckets are cut from its end, since backward reaches the
last parameters first; the flags travel in the last bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from hpc_localsgd.attach.storage import Group, windows
from hpc_localsgd.plan.costmodel import allreduce_wire_bytes
from hpc_localsgd.worlds.pending import Pending

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.base import World


@dataclass
class Slot:
    """One parameter's place: its window, its flag, and whether its gradient is there."""

    name: str
    parameter: nn.Parameter
    window: torch.Tensor
    flag: torch.Tensor  # [], 1 if this rank has a gradient; after the average > 0 if any has
    bucket: Bucket
    arrived: bool = False
    absent: bool = False

    def give(self) -> None:
        """Make the window the parameter's gradient, or a copy of it in half precision."""
        same = self.window.dtype == self.parameter.dtype
        self.parameter.grad = self.window if same else self.window.to(self.parameter.dtype)


@dataclass
class Bucket:
    """A contiguous part of a flat vector of gradients; `begun` is its average under way."""

    part: torch.Tensor
    slots: list[Slot] = field(default_factory=list)
    missing: int = 0
    begun: Pending | None = None


@dataclass(frozen=True)
class Buffer:
    """The gradients of one group in one vector [n + P]: a flag for each of n tensors, then P."""

    vector: torch.Tensor
    n: int

    @property
    def rows(self) -> Rows:
        """The gradients alone, [1, P]."""
        return self.vector[None, self.n :]


def cut_buckets(
    group: Group, limit: int, taken: set[tuple[torch.dtype, int]]
) -> tuple[Buffer, list[Bucket]]:
    """The vector of a group and its buckets, from the last parameter to the first.

    No two buckets of a dtype have the same length: Horovod knows what is under way by names, and
    the names of its transport are made of dtype and length. The flags travel in the last bucket.
    """
    n, P = len(group.parameters), group.flat.numel()
    vector = torch.ones(n + P, dtype=group.wire_dtype, device=group.flat.device)
    slots = windows(vector[n:], group.parameters)
    begins = [n]
    for parameter in group.parameters:
        begins.append(begins[-1] + parameter.numel())
    cuts = cuts_of(begins, limit // vector.itemsize, partial(_is_new, vector.dtype, taken))
    buckets = []
    for first, after in cuts:
        begin = begins[first] if first else 0
        bucket = Bucket(vector[begin : begins[after]])
        taken.add((vector.dtype, bucket.part.numel()))
        for i in reversed(range(first, after)):
            slot = Slot(group.names[i], group.parameters[i], slots[i], vector[i], bucket)
            bucket.slots.append(slot)
        buckets.append(bucket)
    return Buffer(vector, n), buckets


def _is_new(dtype: torch.dtype, taken: set[tuple[torch.dtype, int]], length: int) -> bool:
    return (dtype, length) not in taken


def cuts_of(begins: list[int], limit: int, new: Callable[[int], bool]) -> list[tuple[int, int]]:
    """Ranges of tensors, last first, of at least `limit` numbers and of lengths that are new.

    Args:
        begins: Where each tensor begins, and where the last ends.
        limit: Numbers at which a range is closed.
        new: Whether a length has not been used by another group.
    """
    cuts: list[tuple[int, int]] = []
    after = len(begins) - 1
    for first in reversed(range(1, after)):
        length = begins[after] - begins[first]
        if length >= limit and length not in _lengths(begins, cuts) and new(length):
            cuts.append((first, after))
            after = first
    while cuts and not (new(begins[after]) and begins[after] not in _lengths(begins, cuts)):
        after = cuts.pop()[1]  # the last bucket becomes one with the bucket before it
    return [*cuts, (0, after)]


def _lengths(begins: list[int], cuts: list[tuple[int, int]]) -> set[int]:
    return {begins[after] - begins[first] for first, after in cuts}


def begin_mean_in_place(v: torch.Tensor, world: World) -> Pending:
    """Begin the average of contiguous v [m] over all ranks; `wait` leaves it in v itself.

    `World.begin_mean` keeps its argument and so needs a copy; a gradient is not needed any more.
    """
    payload = v.numel() * v.element_size()
    world.ledger.bill(payload, allreduce_wire_bytes(world.n, payload), 0.0)
    with world.ledger.transferring():
        finish = world._transport.begin_average(v)
    return Pending(v, finish, world.ledger, 0.0)
