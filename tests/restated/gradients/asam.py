"""ASAM (Kwon et al., arXiv:2102.11600): at x + rho T^2 g / ||T g||, T = |x| + eta for weights."""

from __future__ import annotations

import numpy as np

from hpc_localsgd.gradients.asam import asam
from restated.problem import DECAYED, Problem


def at(p: Problem, x: np.ndarray, t: int) -> np.ndarray:
    found = []
    for k in range(p.K):
        g = p.gradient(k, x[k], t)
        T = np.ones(len(g))
        T[:DECAYED] = abs(x[k][:DECAYED]) + 0.15
        found.append(p.gradient(k, x[k] + 0.4 * T**2 * g / np.sqrt(((T * g) ** 2).sum()), t))
    return np.stack(found)


RULES = [(asam(rho=0.4, eta=0.15), at)]
