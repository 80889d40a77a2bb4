"""The upper half of a float32, rounded to nearest, halves to even."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_localsgd.compressors import BF16

ENTRY_BY_ENTRY = True
MADE = [BF16()]


def coded(p: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    mantissa, exponent = np.frexp(p.astype(np.float32).astype(np.float64))
    return np.ldexp(np.rint(mantissa * 256), exponent - 8)  # 8 significant bits


def nbytes(P: int, tensors: int) -> int:
    """Two bytes a number."""
    return 2 * P


def bound(p: np.ndarray, sizes: Sequence[int]) -> float:
    """Of ||coded(p) - p||_2: half a unit in the last of 8 places, or all that is not normal."""
    return 2**-8 * float(np.sqrt((p**2).sum())) + 2**-126 * len(p) ** 0.5
