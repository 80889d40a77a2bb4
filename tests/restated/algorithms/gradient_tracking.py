"""Gradient tracking (Di Lorenzo & Scutari 2016), adapt then combine, y in place of the gradient.

x(t+1) = W_t (x(t) - lr y(t))        y(t+1) = W_t+1 (y(t) + g(t+1) - g(t))        y(0) = g(0)
"""

from __future__ import annotations

from hpc_localsgd.algorithms.gradient_tracking import GradientTracking
from restated.algorithms.gossip import turning
from restated.problem import Case, Problem, mixing


def path(p: Problem) -> None:
    x = p.start
    y = g = p.gradients(x, 0)
    for t in range(p.steps):
        if t > 0:
            new = p.gradients(x, t)
            y, g = mixing(p.K, t) @ (y + new - g), new
        x = mixing(p.K, t) @ p.step(x, y, t)
        x = p.end_round(x, 1)


CASES = [Case("turning", GradientTracking(turning()), path, {"lengths": (1,) * 8})]
