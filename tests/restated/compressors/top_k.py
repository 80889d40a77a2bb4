"""Top-k with the k largest magnitudes (Stich et al. 2018), of the whole vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_localsgd.compressors import TopK

ENTRY_BY_ENTRY = False
FRACTION = 0.3
MADE = [TopK(fraction=FRACTION)]


def coded(p: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    k = max(1, round(FRACTION * len(p)))
    largest = sorted(range(len(p)), key=lambda i: (-abs(np.float32(p[i])), i))[:k]
    kept = np.zeros(len(p))
    for i in largest:
        kept[i] = np.float32(p[i])
    return kept


def nbytes(P: int, tensors: int) -> int:
    """A place and a float32 for each number that is kept."""
    return 8 * max(1, round(FRACTION * P))


def bound(p: np.ndarray, sizes: Sequence[int]) -> float:
    """Of ||coded(p) - p||_2: what is dropped as large as what is kept; a float32 is rounded."""
    kept = max(1, round(FRACTION * len(p)))
    dropped = float(np.sqrt(1 - kept / len(p)) * np.sqrt((p**2).sum()))
    return dropped + 2**-149 * len(p) ** 0.5
