"""g_k = grad L_k(x_k)."""

from __future__ import annotations

import numpy as np

from hpc_localsgd.gradients.plain import plain
from restated.problem import Problem


def at(p: Problem, x: np.ndarray, t: int) -> np.ndarray:
    return np.stack([p.gradient(k, x[k], t) for k in range(p.K)])


RULES = [(plain(), at)]
