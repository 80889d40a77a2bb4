"""Bytes of activations that a worker's step keeps for its backward pass, measured on its model."""

from __future__ import annotations

import torch

from hpc_localsgd.tasks.base import Task

FEW = (2, 4)  # samples of the steps that are measured


def activations(task: Task, micro_batch: int) -> float:
    """Return the bytes autograd keeps from the forward to the backward pass of so many samples.

    A step of 2 samples and one of 4 are measured, and the straight line through them is followed:
    what is kept grows with the samples, apart from what belongs to the weights. Fused kernels keep
    less on one device than on another, so it is exact for the device it is measured on.

    Args:
        task: With one worker, its parameters set.
        micro_batch: Samples in one backward pass.
    """
    if micro_batch <= FEW[1]:
        return float(_kept(task, micro_batch))
    low, high = (_kept(task, samples) for samples in FEW)
    each = (high - low) / (FEW[1] - FEW[0])
    return low + each * (micro_batch - FEW[0])


def _kept(task: Task, samples: int) -> int:
    """Return the bytes kept by a step of the worker's first samples, each storage once."""
    inputs, targets = (part[:, :samples].clone() for part in task.batch([0], 0))
    own = {task.x.untyped_storage().data_ptr(), task.buffers.untyped_storage().data_ptr()}
    kept: dict[int, torch.Tensor] = {}  # alive until the end, so that no address comes twice

    def look(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        task.loss_and_grad(task.x, (inputs, targets))
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)
