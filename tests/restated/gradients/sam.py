"""SAM (Foret et al., arXiv:2010.01412, equation 2): at x_k + rho g_k / ||g_k||."""

from __future__ import annotations

import numpy as np

from hpc_localsgd.gradients.sam import sam
from restated.problem import Problem


def at(p: Problem, x: np.ndarray, t: int) -> np.ndarray:
    found = []
    for k in range(p.K):
        g = p.gradient(k, x[k], t)
        found.append(p.gradient(k, x[k] + 0.2 * g / np.sqrt((g**2).sum()), t))
    return np.stack(found)


RULES = [(sam(rho=0.2), at)]
