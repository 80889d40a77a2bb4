"""Top-k of each chunk (SparseLoCo, Sarfi et al., arXiv:2508.15706): two of five, one of a rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_localsgd.compressors import ChunkedTopK

ENTRY_BY_ENTRY = False
CHUNK, KEPT, DECAY = 5, 2, 0.8
MADE = [ChunkedTopK(chunk=CHUNK, kept_of_chunk=KEPT, decay=DECAY)]


def coded(p: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    kept = np.zeros(len(p))
    for begin in range(0, len(p), CHUNK):
        chunk = range(begin, min(begin + CHUNK, len(p)))
        k = int(np.ceil(KEPT * len(chunk) / CHUNK))
        for i in sorted(chunk, key=lambda i: (-abs(np.float32(p[i])), i))[:k]:
            kept[i] = np.float32(p[i])
    return kept


def nbytes(P: int, tensors: int) -> int:
    """Three bits and a float32 for each number that is kept; P is 12: two, two and one."""
    return int(np.ceil(5 * 3 / 8)) + 4 * 5


def bound(p: np.ndarray, sizes: Sequence[int]) -> float:
    """Of ||coded(p) - p||_2: 3/5 of the squares, if all are equal; a float32 is rounded."""
    return float(np.sqrt(3 / 5 * (p**2).sum())) + 2**-149 * len(p) ** 0.5
