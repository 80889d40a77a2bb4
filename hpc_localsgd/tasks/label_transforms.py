"""What training does to the labels of a batch: noise, and mixtures of samples.

Both are functions of (seed, worker, step): the same in every process that computes a worker, and
after a resume.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from hpc_localsgd.tasks.base import Batch

_NOISE, _MIXUP = 4, 6  # streams of their own, beside those of `tasks/partition.py` and augmentation


def noisy(
    labels: torch.Tensor, classes: int, p: float, seed: int, workers: Sequence[int], t: int
) -> torch.Tensor:
    """Return labels [R, B], each replaced by one of the other classes with probability p."""
    shifts = []
    for worker in workers:
        draw = np.random.default_rng([_NOISE, seed, worker, t])
        hit = draw.random(labels.shape[1]) < p
        shifts.append(hit * draw.integers(1, classes, labels.shape[1]))
    shift = torch.from_numpy(np.stack(shifts)).to(labels.device, non_blocking=True)
    return (labels + shift) % classes


def mixed(
    batch: Batch, classes: int, alpha: float, seed: int, workers: Sequence[int], t: int
) -> Batch:
    """Mix every sample, and so its label, with another of its worker's batch.

    Source: Zhang et al., mixup: Beyond empirical risk minimization, ICLR 2018. One weight for a
    worker's batch, from Beta(alpha, alpha), as in the authors' code.

    Args:
        batch: Inputs [R, B, ...] and labels [R, B].
        classes: Number of classes.
        alpha: Of the distribution of the weight.
        seed: Of the run.
        workers: Whose batches these are.
        t: The step.

    Returns:
        Inputs [R, B, ...] and probabilities [R, B, classes].
    """
    inputs, labels = batch
    R, B = labels.shape
    draws = [np.random.default_rng([_MIXUP, seed, worker, t]) for worker in workers]
    weights = torch.tensor([draw.beta(alpha, alpha) for draw in draws])
    partners = torch.from_numpy(np.stack([draw.permutation(B) for draw in draws]))
    own = weights.to(inputs).view(R, *[1] * (inputs.ndim - 1))
    rows, partners = torch.arange(R)[:, None].to(inputs.device), partners.to(inputs.device)
    hot = nn.functional.one_hot(labels, classes).to(inputs.dtype)
    share = own.view(R, 1, 1)
    return (
        own * inputs + (1 - own) * inputs[rows, partners],
        share * hot + (1 - share) * hot[rows, partners],
    )
