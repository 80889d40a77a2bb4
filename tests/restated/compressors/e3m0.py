"""E3M0 (Douillard et al., arXiv:2501.18512): sign, exponent; m = max |p| of a block is level 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_localsgd.compressors import E3M0

from ..four_bits import BLOCK, blocks
from ..four_bits import nbytes as nbytes

ENTRY_BY_ENTRY = False
MADE = [E3M0(block=BLOCK)]
LEVELS = [0.0, *(2.0**e for e in range(-6, 1))]


def coded(p: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    found = []
    for part in blocks(p):
        m = np.float64(np.float32(np.abs(part).max()))
        for number in part:
            near = min(LEVELS, key=lambda e: (abs(abs(number) - m * e), -e))
            found.append(np.sign(number) * m * near)
    return np.array(found)


def bound(p: np.ndarray, sizes: Sequence[int]) -> float:
    """Of ||coded(p) - p||_2: a third of each, or half the smallest level; all if subnormal."""
    worst = [np.maximum(np.abs(q) / 3, np.abs(q).max() / 128) for q in blocks(p)]
    return float(np.sqrt(((np.concatenate(worst) + 2**-126) ** 2).sum()))
