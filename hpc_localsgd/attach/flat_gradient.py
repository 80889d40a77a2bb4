"""The gradients of a user's own loop in buckets, with what they need beside their numbers.

The vector of a group of n tensors is [n + P]: a flag for each tensor, which tells whether any rank
has a gradient for it, then the gradients. Buckets are cut from its end, since backward reaches the
last parameters first; the flags travel in the last bucket. The flag of a sparse gradient is so
small and negative that the sum of all flags is negative exactly where all gradients are sparse.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hpc_localsgd.attach.flat_views import cut_views
from hpc_localsgd.attach.storage import Group
from hpc_localsgd.tasks.buckets import Bucket
from hpc_localsgd.tasks.fragments import cuts_from_the_end

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows


SPARSE = -(2.0**-20)  # fewer than 2^20 ranks
# Uses of a storage; torch before 2.5 has it where it is built for CUDA only.
_uses: Callable[[int], int] = getattr(torch._C, "_storage_Use_Count", lambda _: 0)


@dataclass
class Slot:
    """One parameter's place.

    Attributes:
        name: Of the parameter.
        parameter: Itself.
        view: Of the vector, with the shape of the parameter, or of this rank's shard of it.
        grad: The view in the form of the parameter's gradient.
        flag: [], 1 or SPARSE if this rank has a gradient; after the average 0 if none has.
        bucket: Which it helps to fill.
        absent: Whether this rank has no gradient.
        sparse: Whether the one it has is sparse.
        memory: Where torch keeps count of the uses of the view's memory.
        alone: How often the gradient and its memory are referred to while nobody keeps them.
    """

    name: str
    parameter: nn.Parameter
    view: torch.Tensor
    grad: torch.Tensor
    flag: torch.Tensor
    bucket: Bucket
    absent: bool = False
    sparse: bool = False
    memory: int = 0
    alone: tuple[int, int] = (0, 0)

    def watch(self) -> None:
        """Note how often the gradient and its memory are referred to while nobody keeps them."""
        self.memory = self.view.untyped_storage()._cdata
        self.alone = (sys.getrefcount(self.grad), _uses(self.memory))

    def release(self) -> bool:
        """Leave what no longer is the parameter's gradient to those who keep it.

        A loop that combines the gradients of several losses, or an optimiser that remembers the
        last: after `zero_grad()` backward makes a new one, and the old stays what it is.

        Returns:
            Whether the memory can be used again; not where somebody has a view of it.
        """
        if self.parameter.grad is self.grad:
            return True
        objects, uses = self.alone
        if _uses(self.memory) > uses:
            return False
        if sys.getrefcount(self.grad) > objects:
            held: Any = self.grad
            if held._use_count() > 1 or held is not self.view:
                return False
            self.grad = self.view = held.detach()
            held.data = held.clone()
            self.watch()
        return True

    def give(self) -> None:
        """Make the view the parameter's gradient, or a copy of it in half precision.

        A sparse gradient, as SparseAdam wants, has the rows whose average is not zero.
        """
        if (self.sparse or self.absent) and bool(self.flag < 0):
            self.parameter.grad = self.view.to(self.parameter.dtype).to_sparse(1)
            return
        same = self.grad.dtype == self.parameter.dtype
        self.parameter.grad = self.grad if same else self.grad.to(self.parameter.dtype)


@dataclass(frozen=True)
class FlatGradient:
    """Parts of the vector of one group.

    Attributes:
        flags: [n], one for each tensor.
        rows: [1, P], the gradients alone.
    """

    flags: torch.Tensor
    rows: Rows


def cut_buckets(
    group: Group, row: int, limit: int
) -> tuple[FlatGradient, list[Bucket], list[Slot]]:
    """Cut the gradients of a group in buckets, from the last parameter to the first.

    Args:
        group: The parameters.
        row: The number of the group.
        limit: Bytes of a bucket; the flags travel in the last.

    Returns:
        The vector, its buckets in the order in which they are begun, and the parameters' places.
    """
    tensors, P = group.tensors, group.P
    n = len(tensors)
    vector = torch.ones(n + P, dtype=group.wire_dtype, device=group.device)
    views = [view.detach() for view in cut_views(vector[n:], tensors)]  # without a base
    begins = [n, *(n + end for end in accumulate(t.numel() for t in tensors))]
    grads = [group.gradient(i, view) for i, view in enumerate(views)]
    buckets, slots = [], []
    for first, after in cuts_from_the_end(begins, limit // vector.itemsize):
        begin = begins[first] if first else 0
        bucket = Bucket(vector[None, begin : begins[after]], after - first, row)
        buckets.append(bucket)
        slots += [
            Slot(group.names[i], group.parameters[i], views[i], grads[i], vector[i], bucket)
            for i in reversed(range(first, after))
        ]
    return FlatGradient(vector[:n], vector[None, n:]), buckets, slots
