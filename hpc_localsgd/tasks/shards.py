"""Fixed shards: every worker has training samples of its own, for the whole run.

`--partition disjoint` cuts one random order into nearly equal shards, which are alike but for
chance. `dirichlet:ALPHA` divides each class by proportions that are drawn from a Dirichlet
distribution: the smaller ALPHA, the fewer classes a worker has, and the more unequal the sizes.
`iid`, the default, means no shards: all workers share all samples (`partition`).

Workers count alike in every average, whatever the size of their shards: the loss that is minimised
is mean_k f_k, f_k the mean over worker k's shard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.partition import Partition, share

IID, DISJOINT, DIRICHLET = "iid", "disjoint", "dirichlet"
_SHARDS, _ORDER, _DRAW = 8, 9, 10  # streams of random numbers of their own for the same seed
TRIES = 1000  # of proportions that leave every worker a batch


def alpha_of(partition: str) -> float | None:
    """Return ALPHA of dirichlet:ALPHA; None of the other two.

    Args:
        partition: As typed.

    Raises:
        ConfigurationError: It is none of the three.
    """
    if partition in (IID, DISJOINT):
        return None
    name, _, text = partition.partition(":")
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if name != DIRICHLET or not 0 < alpha < math.inf:
        raise ConfigurationError(
            f"--partition {partition}: type iid, disjoint, or dirichlet:ALPHA with a positive "
            "number, as in dirichlet:0.3"
        )
    return alpha


def shards(
    partition: str, labels: np.ndarray, workers: int, batch: int, seed: int
) -> tuple[np.ndarray, ...]:
    """Return the samples of each worker, int64 and ascending; together all of them, none twice.

    Source of dirichlet: Hsu et al., Measuring the effects of non-identical data distribution for
    federated visual classification, 2019; proportions that leave a worker less than a batch are
    drawn again, as in Li et al., Federated learning on non-IID data silos, ICDE 2022 (whose least
    is 10 samples).

    Args:
        partition: disjoint or dirichlet:ALPHA.
        labels: [N] of the training samples.
        workers: K.
        batch: Least samples of a worker.
        seed: Of the run.

    Raises:
        ConfigurationError: There are too few samples, or labels of more than one number.
    """
    alpha = alpha_of(partition)
    if workers * batch > len(labels):
        raise ConfigurationError(
            f"--partition {partition}: {workers} workers with at least a batch of {batch} are more "
            f"than the {len(labels)} training samples"
        )
    draw = np.random.default_rng([_SHARDS, seed])
    order = draw.permutation(len(labels))
    if alpha is None:
        parts = (share(len(labels), k, workers) for k in range(workers))
        return tuple(np.sort(order[part.start : part.stop]) for part in parts)
    if labels.ndim != 1:
        raise ConfigurationError(
            f"--partition {partition} divides by class, and the samples of this task have "
            f"{labels.shape[1]} labels each: type disjoint"
        )
    mine = [order[labels[order] == label] for label in np.unique(labels)]
    for _ in range(TRIES):
        ends = np.cumsum(draw.dirichlet([alpha] * workers, len(mine)), axis=1)
        cut = [
            np.split(of, (e[:-1] * len(of)).astype(int)) for of, e in zip(mine, ends, strict=True)
        ]
        found = [np.concatenate(parts) for parts in zip(*cut, strict=True)]
        if min(map(len, found)) >= batch:
            return tuple(np.sort(samples) for samples in found)
    raise ConfigurationError(
        f"--partition {partition}: none of {TRIES} draws left each of {workers} workers a batch of "
        f"{batch}: type a larger ALPHA, fewer workers or a smaller batch"
    )


@dataclass(frozen=True)
class Sharded(Partition):
    """Assignment of each worker's own samples, in a new order in each of its own epochs.

    The permutations of a worker's successive epochs are laid end to end, so that every sample of
    its shard is used once before one is used again. With replacement each draws from its shard.

    Attributes:
        shards: Samples of each worker.
    """

    shards: tuple[np.ndarray, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.remainder == "drop":
            raise ConfigurationError(
                "--remainder drop concerns epochs of all workers together, and with --partition "
                "each worker has its own: leave it out"
            )

    def indices(self, worker: int, t: int) -> np.ndarray:
        """Return the samples of one worker at step t, int64 [batch]."""
        own = self.shards[worker]
        if self.replacement:
            draw = np.random.default_rng([_DRAW, self.seed, worker, t])
            return own[draw.integers(len(own), size=self.batch)]
        epoch, offset = divmod(t * self.batch, len(own))
        head = own[_order(len(own), self.seed, worker, epoch)[offset : offset + self.batch]]
        if len(head) == self.batch:
            return head
        # A shard has a batch at least, so it reaches into one further epoch at most.
        rest = own[_order(len(own), self.seed, worker, epoch + 1)[: self.batch - len(head)]]
        return np.concatenate([head, rest])

    def said(self) -> str:
        """Return the sizes in words."""
        sizes = [len(own) for own in self.shards]
        return f"shards of {min(sizes):,} to {max(sizes):,} samples, workers count alike"


@lru_cache(maxsize=256)  # workers of one rank are asked for in turn
def _order(samples: int, seed: int, worker: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng([_ORDER, seed, worker, epoch]).permutation(samples)
    order.flags.writeable = False
    return order
