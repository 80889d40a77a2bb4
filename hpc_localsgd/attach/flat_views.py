"""Views of a flat vector: tensors of any shapes in its memory, each with its own storage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import accumulate

import torch

ALIGNED_BYTES = 16


def aligned(like: Sequence[torch.Tensor]) -> tuple[tuple[int, ...], int]:
    """Lay tensors of one dtype one after the other, each at an address divisible by 16.

    torch.compile takes the beginning of a storage to be divisible by 16, and loads so many bytes
    at a time; savers (safetensors) want a tensor to begin where its storage does.

    Returns:
        Where each begins, and the length of the vector, both in elements.
    """
    begins, end = [], 0
    for tensor in like:
        step = max(1, ALIGNED_BYTES // tensor.element_size())
        begins.append(-(-end // step) * step)
        end = begins[-1] + tensor.numel()
    return tuple(begins), end


def cut_views(
    flat: torch.Tensor, like: Sequence[torch.Tensor], begins: Sequence[int] | None = None
) -> list[torch.Tensor]:
    """Cut parts of a vector with the shapes and strides of some tensors.

    Each has a storage of its own that ends where it ends (through DLPack, without a copy). A plain
    view would do for computing, but pickle writes a tensor's whole storage, so every parameter
    would be saved with the whole model. It begins at the last address before it that is divisible
    by 16: torch.compile concludes from a tensor's offset in its storage how it may be loaded.

    Args:
        flat: The vector.
        like: Tensors of its dtype and device, or of another dtype and the same shapes.
        begins: Where each begins; one directly after the other by default.
    """
    ends = accumulate((x.numel() for x in like), initial=0)
    views, unit = [], max(1, ALIGNED_BYTES // flat.element_size())
    with torch.cuda.device(flat.device) if flat.is_cuda else nullcontext():  # DLPack asks for it
        for tensor, begin in zip(like, begins or ends, strict=False):
            skipped = begin % unit
            part = torch.from_dlpack(flat[begin - skipped : begin + tensor.numel()])
            stride = (tensor if _is_dense(tensor) else torch.empty_like(tensor)).stride()
            views.append(part.as_strided(tensor.shape, stride, skipped))
    return views


def _is_dense(x: torch.Tensor) -> bool:
    """Return whether the elements fill their span of memory, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True
