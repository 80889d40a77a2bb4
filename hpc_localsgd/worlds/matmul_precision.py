"""Products of matrices in full precision, whatever a user has set for the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision_matmul() -> Iterator[None]:
    """Multiply in the precision of the tensors inside the block: no TF32 in what is exchanged."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
