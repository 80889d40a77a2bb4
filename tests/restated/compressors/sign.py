"""Scaled sign (Karimireddy et al. 2019): ||p||_1 / n times sign p, for each tensor by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_localsgd.compressors import Sign

ENTRY_BY_ENTRY = False
MADE = [Sign()]


def coded(p: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    parts = np.split(p, np.cumsum(sizes)[:-1])
    scales = [np.float64(np.float32(np.abs(part).sum() / len(part))) for part in parts]
    signs = [np.where(part < 0, -1.0, 1.0) for part in parts]
    return np.concatenate([s * sign for s, sign in zip(scales, signs, strict=True)])


def nbytes(P: int, tensors: int) -> int:
    """A bit a number in whole bytes, a float32 a tensor."""
    return (P + 7) // 8 + 4 * tensors


def bound(p: np.ndarray, sizes: Sequence[int]) -> float:
    """Of ||coded(p) - p||_2: what is lost, exactly: ||p||_2^2 - ||p||_1^2 / n of each tensor."""
    parts = np.split(p, np.cumsum(sizes)[:-1])
    return float(np.sqrt(sum((q**2).sum() - np.abs(q).sum() ** 2 / len(q) for q in parts)))
