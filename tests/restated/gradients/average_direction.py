"""Average-direction SAM (Zhu et al., arXiv:2306.02913): at x_k + eps, one eps for all workers.

eps ~ N(0, sigma^2 I), or with the covariance Xi of the workers: K^-1/2 sum_k z_k (x_k - mean).
"""

from __future__ import annotations

import numpy as np

from hpc_localsgd.gradients.average_direction import average_direction
from restated.gradients.noise_injected import SEED, normal
from restated.problem import Problem


def given(p: Problem, x: np.ndarray, t: int) -> np.ndarray:
    eps = 0.3 * normal(0, t)
    return np.stack([p.gradient(k, x[k] + eps, t) for k in range(p.K)])


def measured(p: Problem, x: np.ndarray, t: int) -> np.ndarray:
    z = np.random.default_rng([4, SEED, t]).standard_normal(p.K)
    mean = sum(x) / p.K
    eps = sum(z[k] * (x[k] - mean) for k in range(p.K)) / np.sqrt(p.K)
    return np.stack([p.gradient(k, x[k] + eps, t) for k in range(p.K)])


RULES = [(average_direction(sigma=0.3), given), (average_direction(sigma="measured"), measured)]
