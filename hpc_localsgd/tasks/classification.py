"""Classification of samples held in memory: any module, any two splits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from hpc_localsgd.tasks.base import Batch, Setting, Task
from hpc_localsgd.tasks.flat import Replicas, bind

if TYPE_CHECKING:
    from hpc_localsgd.types import Losses, Rows, Vector

CHUNK = 1024  # samples evaluated at a time: bounds the memory, not the result


class Classification(Task):
    """Cross entropy of a module's logits on in-memory data, for R workers."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        splits: dict[str, tuple[np.ndarray, np.ndarray]],
        setting: Setting,
        vmapped: bool | None = None,
    ) -> None:
        """Take the data to the device and allocate the flat storage.

        Args:
            make: Makes a freshly initialised module from torch's global random numbers.
            splits: For "train", "test", ...: inputs [N, ...] and integer labels [N].
            setting: Workers, batch, seed, device and dtype of the run.
            vmapped: See `Replicas`.
        """
        self._make, self._setting = make, setting
        self._data = {name: self._to_device(*split) for name, split in splits.items()}
        self.splits = {name: len(labels) for name, (_, labels) in self._data.items()}
        self.partition = setting.partition(self.splits["train"])
        criterion = nn.functional.cross_entropy
        R = len(setting.ranks)
        self._replicas = Replicas(
            self._module(setting.seed), R, criterion, setting.device, setting.dtype, vmapped
        )
        self.layout = self._replicas.layout
        self.dim, self.sizes = self._replicas.dim, self.layout.sizes
        self.decayed = self.layout.decayed
        self.x, self.buffers = self._replicas.x, self._replicas.buffers
        self._point = copy.deepcopy(self._replicas.modules[0])  # evaluated at any given vector

    def _to_device(
        self, inputs: np.ndarray, labels: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device, dtype = self._setting.device, self._setting.dtype
        return (
            torch.as_tensor(inputs).to(device=device, dtype=dtype),
            torch.as_tensor(labels).to(device=device, dtype=torch.int64),
        )

    def _module(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.manual_seed(seed)
            return self._make()

    def init(self, seed: int) -> Vector:
        """Initial parameters [P], drawn on the CPU so that every device starts alike."""
        return self.layout.flatten(self._module(seed)).to(self.x)

    def batch(self, ranks: Sequence[int], t: int) -> Batch:
        """Inputs [R, B, ...] and labels [R, B] of the given workers at step t."""
        rows = np.stack([self.partition.indices(worker, t) for worker in ranks])
        index = torch.from_numpy(rows).to(self._setting.device, non_blocking=True)
        inputs, labels = self._data["train"]
        return inputs[index], labels[index]

    def loss_and_grad(self, x: Rows, batch: Batch) -> tuple[Losses, Rows]:
        """Losses [R] and gradients [R, P]; no copy when x is the task's own storage."""
        if x.data_ptr() != self.x.data_ptr():
            self.x.copy_(x)
        return self._replicas.loss_and_grad(*batch)

    def loss(self, x: Vector, batch: Batch, buffers: Vector | None = None) -> torch.Tensor:
        """Mean cross entropy [] of inputs [B, ...], in evaluation mode, differentiable in x."""
        inputs, labels = batch
        return nn.functional.cross_entropy(self.outputs(x, inputs, buffers), labels)

    def outputs(
        self, x: Vector, inputs: torch.Tensor, buffers: Vector | None = None
    ) -> torch.Tensor:
        """Logits [B, C] of inputs [B, ...], in evaluation mode, differentiable in x."""
        state = self.layout.views(x)
        state |= self.layout.buffer_views(self.buffers[0] if buffers is None else buffers)
        return functional_call(self._point.eval(), state, inputs)

    @torch.no_grad()
    def evaluate(self, x: Vector, split: str, rows: range, buffers: Vector) -> torch.Tensor:
        """Sums over rows of a split: float64 [3] of cross entropy, right answers, samples."""
        module = self._at(x, buffers).eval()
        sums = torch.zeros(3, dtype=torch.float64, device=x.device)
        inputs, labels = (part[rows.start : rows.stop] for part in self._data[split])
        for chunk, target in zip(inputs.split(CHUNK), labels.split(CHUNK), strict=True):
            if len(target):
                logits = module(chunk)
                sums[0] += nn.functional.cross_entropy(logits, target, reduction="sum").double()
                sums[1] += (logits.argmax(1) == target).sum()
                sums[2] += len(target)
        return sums

    @torch.no_grad()
    def statistics(self, x: Vector, batches: Sequence[Batch]) -> Vector:
        """BatchNorm statistics [Q] at x: the cumulative mean over the given batches [B, ...]."""
        buffers = self.buffers[0].clone()
        if not buffers.numel() or not batches:
            return buffers
        module = self._at(x, buffers).train()
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's spelling of a cumulative mean
        for inputs, _ in batches:
            module(inputs)
        return buffers

    def _at(self, x: Vector, buffers: Vector) -> nn.Module:
        """The evaluation module, its parameters and buffers views of the given vectors."""
        return bind(self._point, self.layout, x, buffers)
