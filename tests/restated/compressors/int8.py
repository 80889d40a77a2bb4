"""Symmetric quantisation: s = max |p| / 127 of each tensor, p rounded to whole multiples of s."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_localsgd.compressors import Int8

ENTRY_BY_ENTRY = False
MADE = [Int8()]


def coded(p: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    found = []
    for part in np.split(p, np.cumsum(sizes)[:-1]):
        s = np.float64(np.float32(np.abs(part).max() / 127))
        found.append(s * np.clip(np.rint(part / s), -127, 127) if s > 0 else 0 * part)
    return np.concatenate(found)


def nbytes(P: int, tensors: int) -> int:
    """A byte a number, a float32 a tensor."""
    return P + 4 * tensors


def bound(p: np.ndarray, sizes: Sequence[int]) -> float:
    """Of ||coded(p) - p||_2: half a step for every number, or all that is not normal."""
    steps = [np.full(len(q), np.abs(q).max() / 127) for q in np.split(p, np.cumsum(sizes)[:-1])]
    return float(np.sqrt(((np.concatenate(steps) / 2 + 2**-126) ** 2).sum()))
