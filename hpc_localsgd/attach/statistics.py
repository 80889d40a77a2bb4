"""BatchNorm's running statistics in a user's own loop; the policies are those of `batchnorm.py`."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from hpc_localsgd.types import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.batchnorm import BatchNorm
    from hpc_localsgd.worlds.base import World


class Statistics:
    """The floating-point buffers of a model. Integer ones (counters) are never exchanged."""

    def __init__(self, model: nn.Module, world: World, batchnorm: BatchNorm) -> None:
        self._model, self._world, self._how = model, world, batchnorm
        self._warned = False

    def on_sync(self) -> None:
        """Average them at an exchange, if that is the policy; sent and billed."""
        if self._how.policy == "average":
            self._average()

    def save(self) -> list[torch.Tensor]:
        """A copy of every buffer, counters too."""
        return [buffer.detach().clone() for buffer in self._model.buffers()]

    @torch.no_grad()
    def restore(self, saved: list[torch.Tensor]) -> None:
        """Put the copies back."""
        for buffer, copy in zip(self._model.buffers(), saved, strict=True):
            buffer.copy_(copy)

    def for_mean_model(self, batches: Iterable[Any] | None, warn: bool = True) -> None:
        """Leave in the model, which holds the mean parameters, statistics to evaluate it with.

        Args:
            batches: This worker's training batches; all workers together use as many as the
                policy says. None averages the workers' own statistics, with a warning where they
                were to be estimated anew.
            warn: Whether to say so.
        """
        if not any(buffer.is_floating_point() for buffer in self._model.buffers()):
            return
        with self._world.ledger.unbilled():
            running = any(getattr(m, "track_running_stats", False) for m in self._model.modules())
            if running and batches is not None:
                self._estimate(batches)
            elif running and warn and self._how.policy == "reestimate":
                self._warn()
            self._average()

    def _estimate(self, batches: Iterable[Any]) -> None:
        """One worker's share: the cumulative mean over its batches, dropout as in training."""
        seen = 0

        def counted() -> Any:
            nonlocal seen
            for batch in itertools.islice(batches, max(1, self._how.batches // self._world.size)):
                seen += 1
                yield batch

        device = self._world.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            update_bn(counted(), self._model, device)
        counts = self._world.gather(np.array([[float(seen)]]))
        if not counts.all():
            raise ConfigurationError(
                f"batches: {int((counts == 0).sum())} of {self._world.size} workers had none to "
                "estimate BatchNorm statistics from: give every rank a loader of its own data"
            )

    @torch.no_grad()
    def _average(self) -> None:
        buffers = [b for b in self._model.buffers() if b.is_floating_point() and b.numel()]
        if not buffers:
            return
        wide = torch.float64 if any(b.dtype == torch.float64 for b in buffers) else torch.float32
        flat = torch.cat([b.reshape(-1).to(self._world.device, wide) for b in buffers])
        parts = self._world.mean(flat[None])[0].split([b.numel() for b in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view(buffer.shape))

    def _warn(self) -> None:
        """Say once, on rank 0, that the statistics do not belong to the mean model."""
        if self._warned or self._world.rank != 0:
            return
        self._warned = True
        warnings.warn(
            "BatchNorm: the mean model is evaluated with the mean of the workers' statistics, "
            "which were taken on other parameters; give training batches, "
            'sync.averaged(batches=loader), or attach(..., batchnorm="average")',
            stacklevel=2,
        )
