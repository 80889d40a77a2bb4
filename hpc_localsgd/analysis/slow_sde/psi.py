"""The two functions by which the length of a round enters the Slow SDE.

    psi(x) = (e^-x - 1 + x) / x         from 0 at x = 0 to 1 at infinity
    F(x)   = integral_0^x psi = x - (E_1(x) + ln x + gamma)

x is eta H (lambda_i + lambda_j): how far a worker forgets within a round where it started.
Source: Gu et al., arXiv:2303.01215, the definition before the Slow SDE of Local SGD.
"""

from __future__ import annotations

import numpy as np

_SERIES_BELOW = 1.0  # both terms of psi are of size 1 there, so nothing cancels above it
_TERMS = 24  # 2 / 24! is far below the rounding of a double
_FRACTION_ABOVE = 2.0  # where 80 terms of the continued fraction of E_1 reach full precision


def psi(x: np.ndarray | float) -> np.ndarray:
    """Return (e^-x - 1 + x) / x, the average over a round of what a worker forgets.

    The formula cancels near 0 (at x = 1e-8 nothing is left of it), so below 1 the series
    x/2 - x^2/6 + x^3/24 - ... is summed.

    Args:
        x: Any real numbers; those of interest are not negative.

    Returns:
        Of the shape of x, float64.
    """
    x = np.asarray(x, dtype=np.float64)
    small = np.abs(x) < _SERIES_BELOW
    near = np.where(small, x, 0.0)
    far = np.where(small, 1.0, x)
    series = np.zeros_like(near)
    for n in range(_TERMS, 0, -1):  # Horner: psi = x/2 (1 - x/3 (1 - x/4 (...)))
        series = near / (n + 1) * (1.0 - series)
    return np.where(small, series, 1.0 + np.expm1(-far) / far)


def F(x: np.ndarray | float) -> np.ndarray:
    """Return the integral of psi from 0 to x.

    Args:
        x: Numbers that are not negative, of any size.

    Returns:
        Of the shape of x, float64; relative error below 1e-13.

    Raises:
        ValueError: x is negative somewhere.
    """
    x = np.asarray(x, dtype=np.float64)
    if (x < 0).any():
        raise ValueError(f"F is the integral of psi from 0 to x >= 0, got x = {x.min():g}")
    small, endless = x < _FRACTION_ABOVE, np.isinf(x)
    far = _F_far(np.where(small | endless, _FRACTION_ABOVE, x))
    return np.where(small, _F_series(np.where(small, x, 0.0)), np.where(endless, x, far))


def _F_series(x: np.ndarray) -> np.ndarray:
    """Return the integrated series of psi: sum_{n >= 1} (-1)^(n+1) x^(n+1) / ((n+1) (n+1)!)."""
    total, power = np.zeros_like(x), x.copy()
    for n in range(1, _TERMS + 8):
        power = power * x / (n + 1)  # x^(n+1) / (n+1)!
        total += (-1) ** (n + 1) * power / (n + 1)
    return total


def _F_far(x: np.ndarray) -> np.ndarray:
    """Return F by the continued fraction of E_1 (Abramowitz & Stegun, 5.1.22)."""
    fraction = np.zeros_like(x)
    for n in range(80, 0, -1):
        fraction = n * n / (x + 2 * n + 1 - fraction)
    E1 = np.exp(-x) / (x + 1 - fraction)
    return x - (E1 + np.log(x) + np.euler_gamma)
