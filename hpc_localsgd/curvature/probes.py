"""Random vectors of a fixed seed, and estimates that average over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, Vector

    Product: TypeAlias = Callable[[Rows], Rows]  # V [m, P] -> V H [m, P], H symmetric
    Losses: TypeAlias = Callable[[Rows], torch.Tensor]  # points [m, P] -> [m]
    Gradient: TypeAlias = Callable[[Vector], Vector]  # [P] -> [P]


@dataclass(frozen=True)
class Estimate:
    """A mean over random probes.

    Attributes:
        value: The mean.
        error: Its standard error, one standard deviation; NaN for a single probe.
        probes: How many were averaged.
    """

    value: float
    error: float
    probes: int

    @staticmethod
    def of(samples: Sequence[float] | np.ndarray, offset: float = 0.0) -> Estimate:
        """Return the mean and standard error of samples, plus what is known exactly."""
        x = np.asarray(samples, dtype=np.float64)
        error = x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan
        return Estimate(float(offset + x.mean()), float(error), len(x))

    def __str__(self) -> str:
        """Format as ``63.7 ± 0.4``."""
        return f"{self.value:.4g} ± {self.error:.2g}"


def rademacher(first: int, count: int, like: Vector, seed: int) -> Rows:
    """Return probes `first`, `first` + 1, ... of a seed: signs [count, P].

    Each has a stream of its own, so that how many are drawn at a time changes nothing.

    Args:
        first: Number of the first probe.
        count: How many.
        like: [P]; gives length, dtype and device.
        seed: Of all of them.
    """
    rows = [
        np.random.default_rng([seed, first + i]).integers(0, 2, len(like)) for i in range(count)
    ]
    return torch.from_numpy(np.stack(rows) * 2 - 1).to(like)


def gaussian(first: int, count: int, like: Vector, seed: int) -> Rows:
    """Return standard normal probes, drawn as those of `rademacher`."""
    streams = [np.random.default_rng([seed, first + i]) for i in range(count)]
    return torch.from_numpy(np.stack([s.standard_normal(len(like)) for s in streams])).to(like)
