"""PowerSGD (Vogels et al., arXiv:1905.13727, Algorithms 1 and 2), of the tensors of 2 x 2, rank 1.

M_k = v_k + e_k        P = orthonormal(mean_k M_k Q)        Q <- mean_k M_k^T P
the mean that arrives is P Q^T, and e_k <- M_k - P Q^T
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

SHAPES = {4: (2, 2)}  # of the problem's tensors, those that are matrices; by their lengths


class Averages:
    """What the workers remember: e, and Q of every matrix."""

    def __init__(self, K: int, feedback: bool, sizes: Sequence[int]) -> None:
        self.feedback, self.sizes = feedback, sizes
        self.e = np.zeros((K, sum(sizes)))
        drawn = torch.randn(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.Q = [drawn.numpy().copy() for _ in sizes]

    def mean(self, v: np.ndarray) -> np.ndarray:
        """The average [P] that arrives, from what the workers have to say [K, P]."""
        said, arrived = v + self.e, []
        for i, (part, n) in enumerate(
            zip(np.split(said, np.cumsum(self.sizes)[:-1], axis=1), self.sizes, strict=True)
        ):
            M = sum(part) / len(part)
            if n in SHAPES:
                M = M.reshape(SHAPES[n])
                P = M @ self.Q[i]
                P = P / np.sqrt((P**2).sum())
                self.Q[i] = M.T @ P
                M = np.outer(P, self.Q[i]).reshape(n)
            arrived.append(M)
        mean = np.concatenate(arrived)
        whole = np.repeat([n not in SHAPES for n in self.sizes], self.sizes)
        if self.feedback:
            self.e = np.where(whole, 0.0, said - mean)
        return mean
