"""The samples curvature is measured on: fixed by a seed, whatever the run and the ranks.

The first samples of one seeded permutation of the training set, in pieces of the run's batch. A
rank takes a contiguous share of the pieces; a mean over samples does not depend on who has which.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import Batch, Task, TaskContext, TaskSpec
from hpc_localsgd.tasks.partition import share

if TYPE_CHECKING:
    from hpc_localsgd.types import Vector


def build_for_curvature(
    spec: TaskSpec,
    *,
    batch: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Task:
    """Make a task with one worker, whose first epoch is the seeded order of the training set.

    Its samples are as they are stored, without augmentation, label noise and mixup, whatever the
    run trained on; label smoothing is part of the loss and stays.

    Args:
        spec: Model and data.
        batch: Samples in a piece: those of a worker and step of the run, on which BatchNorm's
            statistics are re-estimated.
        seed: Of the order, independent of the run's.
        dtype: torch.float32 or torch.float64, of parameters and data.
        device: Where it is computed.
    """
    return spec.undisturbed().build(
        TaskContext(batch=batch, seed=seed, device=torch.device(device), dtype=dtype)
    )


def pieces(task: Task, samples: int | None = None, rank: int = 0, ranks: int = 1) -> list[Batch]:
    """Return this rank's pieces of the subset: inputs [b, ...] and targets [b] each.

    Args:
        task: From `build_for_curvature`.
        samples: Size of the subset; None, or more than there are, for the whole training set.
        rank: This rank.
        ranks: How many ranks share the work.

    Raises:
        ConfigurationError: No samples.
    """
    total = subset_size(task, samples)
    b = task.partition.batch
    found = []
    for t in share(-(-total // b), rank, ranks):
        inputs, targets = task.batch([0], t)
        kept = min(b, total - t * b)
        found.append((inputs[0, :kept], targets[0, :kept]))
    return found


def subset_size(task: Task, samples: int | None) -> int:
    """Return the number of samples that the subset has.

    Raises:
        ConfigurationError: No samples.
    """
    if samples is not None and samples < 1:
        raise ConfigurationError(f"--samples {samples}: curvature needs at least one sample")
    return min(samples or task.splits["train"], task.splits["train"])


def in_chunks(parts: Sequence[Batch], chunk: int) -> list[Batch]:
    """Join the pieces to chunks of equal size, each computed in one pass.

    Args:
        parts: Pieces.
        chunk: Most samples in a chunk that has more than one piece. Bounds the memory, not the
            result.
    """
    if not parts:
        return []
    most = max(1, chunk // max(len(targets) for _, targets in parts))  # pieces in a chunk
    bounds = np.linspace(0, len(parts), -(-len(parts) // most) + 1).round().astype(int)
    groups = [parts[i:j] for i, j in pairwise(bounds)]
    return [(torch.cat([i for i, _ in g]), torch.cat([t for _, t in g])) for g in groups]


def of_full_size(task: Task, parts: Sequence[Batch], samples: int) -> list[Batch]:
    """Return the pieces for BatchNorm's statistics, each as long as a batch of the run.

    A shorter one has other statistics, and a single sample none. Where the subset is smaller than a
    batch it is all there is.

    Args:
        task: From `build_for_curvature`.
        parts: Pieces.
        samples: Size of the whole subset.
    """
    b = min(task.partition.batch, samples)
    return [part for part in parts if len(part[1]) == b]


def statistics_sum(task: Task, x: Vector, parts: Sequence[Batch], samples: int) -> torch.Tensor:
    """Return BatchNorm's statistics at x, summed over these pieces, and their number: [Q + 1].

    Summed over ranks and divided by its last entry, this is the cumulative mean over all pieces.

    Args:
        task: From `build_for_curvature`.
        x: [P].
        parts: This rank's pieces.
        samples: Size of the whole subset.
    """
    parts = of_full_size(task, parts, samples)
    Q = task.buffers.shape[1]
    summed = torch.zeros(Q + 1, dtype=x.dtype, device=x.device)
    if parts and Q:
        summed[:Q] = task.statistics(x, parts) * len(parts)
    summed[Q] = len(parts)
    return summed
