"""SSGD* (Zhang et al., arXiv:2112.01433): at x_k + sigma z_k, a draw of every worker and step."""

from __future__ import annotations

import numpy as np
import torch

from hpc_localsgd.gradients.noise_injected import noise_injected
from restated.problem import P, Problem

SEED = 9


def normal(worker: int, t: int) -> np.ndarray:
    """The numbers [P] that a run of this seed draws: they are part of its record."""
    words = np.random.SeedSequence([3, SEED, worker, t]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0]))
    return torch.randn(P, generator=generator, dtype=torch.float64).numpy()


def at(p: Problem, x: np.ndarray, t: int) -> np.ndarray:
    points = [x[k] + 0.3 * normal(k, t) for k in range(p.K)]
    return np.stack([p.gradient(k, point, t) for k, point in enumerate(points)])


RULES = [(noise_injected(sigma=0.3), at)]
