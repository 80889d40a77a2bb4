"""The nearest IEEE half, by way of float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_localsgd.compressors import FP16

ENTRY_BY_ENTRY = True
MADE = [FP16()]


def coded(p: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    return p.astype(np.float32).astype(np.float16).astype(np.float64)


def nbytes(P: int, tensors: int) -> int:
    """Two bytes a number."""
    return 2 * P


def bound(p: np.ndarray, sizes: Sequence[int]) -> float:
    """Of ||coded(p) - p||_2: half a unit in the last of 11 places, or of the smallest number."""
    return 2**-11 * float(np.sqrt((p**2).sum())) + 2**-25 * len(p) ** 0.5
