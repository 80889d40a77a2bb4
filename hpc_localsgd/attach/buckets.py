"""Buckets: contiguous parts of a flat vector of gradients, averaged one by one.

The vector of a group of n tensors is [n + P]: a flag for each tensor, which tells whether any rank
has a gradient for it, then the gradients. Buckets are cut from its end, since backward reaches the
last parameters first; the flags travel in the last bucket. The flag of a sparse gradient is so
small and negative that the sum of all flags is negative exactly where all gradients are sparse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import nn

from hpc_localsgd.attach.storage import Group
from hpc_localsgd.attach.windows import windows
from hpc_localsgd.tasks.fragments import cuts_from_the_end
from hpc_localsgd.worlds.pending import Pending

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows


SPARSE = -(2.0**-20)  # fewer than 2^20 ranks


@dataclass
class Slot:
    """One parameter's place: its window, its flag, and whether its gradient is there."""

    name: str
    parameter: nn.Parameter
    window: torch.Tensor
    flag: (
        torch.Tensor
    )  # [], 1 or SPARSE if this rank has a gradient; after the average 0 if none has
    bucket: Bucket
    arrived: bool = False
    absent: bool = False
    sparse: bool = False

    def give(self) -> None:
        """Make the window the parameter's gradient, or a copy of it in half precision.

        A sparse gradient, as SparseAdam wants, has the rows whose average is not zero.
        """
        if (self.sparse or self.absent) and bool(self.flag < 0):
            self.parameter.grad = self.window.to(self.parameter.dtype).to_sparse(1)
            return
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


def cut_buckets(group: Group, limit: int) -> tuple[Buffer, list[Bucket]]:
    """The vector of a group and its buckets of `limit` bytes, from the last parameter to the first.

    The flags travel in the last bucket.
    """
    n, P = len(group.parameters), group.P
    vector = torch.ones(n + P, dtype=group.wire_dtype, device=group.flat.device)
    slots = windows(vector[n:], group.parameters)
    begins = [n, *(n + end for end in accumulate(p.numel() for p in group.parameters))]
    buckets = []
    for first, after in cuts_from_the_end(begins, limit // vector.itemsize):
        begin = begins[first] if first else 0
        bucket = Bucket(vector[begin : begins[after]])
        buckets.append(bucket)
        for i in reversed(range(first, after)):
            slot = Slot(group.names[i], group.parameters[i], slots[i], vector[i], bucket)
            bucket.slots.append(slot)
    return Buffer(vector, n), buckets
