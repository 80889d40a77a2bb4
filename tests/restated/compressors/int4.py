"""Symmetric quantisation of blocks: m = max |p| of a block, p rounded to multiples of m / 7."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_localsgd.compressors import Int4

from ..four_bits import BLOCK, blocks
from ..four_bits import nbytes as nbytes

ENTRY_BY_ENTRY = False
MADE = [Int4(block=BLOCK)]


def coded(p: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    found = []
    for part in blocks(p):
        m = np.float64(np.float32(np.abs(part).max()))
        found.append(m / 7 * np.clip(np.rint(7 * part / m), -7, 7) if m > 0 else 0 * part)
    return np.concatenate(found)


def bound(p: np.ndarray, sizes: Sequence[int]) -> float:
    """Of ||coded(p) - p||_2: half a step for every number, or all that is not normal."""
    half = np.concatenate([np.full(len(q), np.abs(q).max() / 14) for q in blocks(p)])
    return float(np.sqrt(((half + 2**-126) ** 2).sum()))
