"""What codecs of four bits send and how they cut a vector, restated."""

from __future__ import annotations

import numpy as np

BLOCK = 5


def blocks(p: np.ndarray) -> list[np.ndarray]:
    """Runs of five numbers, the last shorter, whatever tensors they are of."""
    return [p[i : i + BLOCK] for i in range(0, len(p), BLOCK)]


def nbytes(P: int, tensors: int) -> int:
    """Two numbers a byte, a float32 a block."""
    return -(-P // 2) + 4 * -(-P // BLOCK)
