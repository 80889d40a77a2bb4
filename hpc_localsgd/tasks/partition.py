"""Which samples a worker uses at a step: a pure function of (seed, worker, step).

Nothing here depends on ranks or on earlier steps, so a run can be replayed, resumed in the
middle of an epoch, and moved between one process and many without changing its data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from hpc_localsgd.errors import ConfigurationError

_EPOCH, _DRAW = 1, 2  # separate streams of random numbers for the same seed


@dataclass(frozen=True)
class Partition:
    """Assignment of training samples to K workers, `batch` to each at every step.

    Without replacement (the default) there is one global permutation per epoch, the same on every
    rank, and the workers take disjoint shares of it. With `remainder="carry"` the permutations of
    successive epochs are laid end to end: every sample is used exactly once per epoch, no batch is
    ever short, and a batch may reach from one epoch into the next. With `remainder="drop"` every
    epoch has the same whole number of steps and the samples left over are not used in that epoch,
    as in the released code of Gu et al. (12 steps of 4096 samples on CIFAR-10, 848 dropped).

    With replacement each worker draws its batch independently and uniformly (Gu et al., the
    label-noise experiments).

    Attributes:
        samples: Size N of the training set.
        workers: K.
        batch: Samples per worker and step.
        seed: Same seed, same data.
        replacement: Draw with replacement.
        remainder: What happens to the N mod (K batch) samples at the end of an epoch.
    """

    samples: int
    workers: int
    batch: int
    seed: int = 0
    replacement: bool = False
    remainder: Literal["carry", "drop"] = "carry"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.workers < 1:
            raise ConfigurationError(
                f"need at least 1 worker and 1 sample per worker and step, "
                f"got {self.workers} and {self.batch}"
            )
        if self.seed < 0:
            raise ConfigurationError(f"--seed must not be negative, got {self.seed}")
        if not self.replacement and self.per_step > self.samples:
            largest = self.samples // self.workers
            fewer = f"--batch-per-worker {largest} or less" if largest else "fewer workers"
            raise ConfigurationError(
                f"{self.workers} workers x {self.batch} samples are {self.per_step} per step, "
                f"but the training set has {self.samples}: use {fewer}"
            )

    @property
    def per_step(self) -> int:
        """Samples all workers together use in one step."""
        return self.workers * self.batch

    @property
    def steps_per_epoch(self) -> float:
        """Steps in one pass over the data; a fraction unless the remainder is dropped."""
        if self.remainder == "drop" and not self.replacement:
            return float(self.samples // self.per_step)
        return self.samples / self.per_step

    def said(self) -> str:
        """Return in words what is unequal between the workers; "" where nothing is."""
        return ""

    def indices(self, worker: int, t: int) -> np.ndarray:
        """Return the samples of one worker at step t, int64 [batch]."""
        if self.replacement:
            draw = np.random.default_rng([_DRAW, self.seed, worker, t])
            return draw.integers(self.samples, size=self.batch)
        if self.remainder == "drop":
            epoch, step = divmod(t, int(self.steps_per_epoch))
            begin = step * self.per_step + worker * self.batch
            return permutation(self.samples, self.seed, epoch)[begin : begin + self.batch]
        return self._stream(t * self.per_step + worker * self.batch)

    def _stream(self, begin: int) -> np.ndarray:
        """Return `batch` samples from position `begin` of the permutations laid end to end."""
        epoch, offset = divmod(begin, self.samples)
        head = permutation(self.samples, self.seed, epoch)[offset : offset + self.batch]
        if len(head) == self.batch:
            return head
        # A batch is never larger than the data, so it reaches into one further epoch at most.
        rest = permutation(self.samples, self.seed, epoch + 1)[: self.batch - len(head)]
        return np.concatenate([head, rest])


@lru_cache(maxsize=4)  # neighbouring epochs are asked for in turn by the workers of one rank
def permutation(samples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the global order of one epoch, int64 [samples], read-only."""
    order = np.random.default_rng([_EPOCH, seed, epoch]).permutation(samples)
    order.flags.writeable = False
    return order


def share(count: int, k: int, K: int) -> range:
    """Return the k-th of K contiguous, nearly equal shares of `count` things."""
    return range(count * k // K, count * (k + 1) // K)
