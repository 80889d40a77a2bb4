"""Running statistics in a user's own loop; the policies are those of `batchnorm.py`."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpc_localsgd.attach.backup import BufferBackup
from hpc_localsgd.attach.batchnorm_estimate import Forward, estimate
from hpc_localsgd.attach.buffers import Buffer, buffers_of, norms_of
from hpc_localsgd.attach.other_tensors import average, in_common
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.attach.grid import RankGrid
    from hpc_localsgd.engine.batchnorm import BatchNorm


class Statistics:
    """The buffers of a model that are running statistics (see `buffers.py`).

    Attributes:
        averaged: Patterns of names of further buffers that are.
    """

    def __init__(
        self,
        model: nn.Module,
        grid: RankGrid,
        batchnorm: BatchNorm,
        averaged: Sequence[str] = (),
    ) -> None:
        self._model, self._world, self._how = model, grid.world, batchnorm
        self._everyone = grid.everyone
        self.averaged = tuple(averaged)
        self._norms = tuple(norms_of(model).values())
        self._at_attach = [str(buffer) for buffer in self._found()]
        self._trained = self._training_now()
        self._warned = False

    @property
    def averages(self) -> bool:
        """Whether rounds average them."""
        return self._how.policy == "average"

    def finite(self) -> bool:
        """Return whether every number in them is finite, on this rank."""
        return all(bool(torch.isfinite(buffer.values()).all()) for buffer in self._found())

    def on_sync(self) -> None:
        """Average them at an exchange, if that is the policy; sent and billed.

        Raises:
            RuntimeError: There are others than at attach, or they have another shape.
        """
        if self._model.training:
            self._trained = self._training_now()
        if self.averages:
            found = self._found()
            self._check(found)
            average(self._world, [buffer.values() for buffer in found])

    def estimate(self, batches: Iterable[Any] | None, forward: Forward | None, warn: bool) -> None:
        """Estimate BatchNorm's statistics for the parameters in the model now, if asked.

        Only of modules that train: those in training mode, or, where the whole model has been
        switched to evaluation, those that were in training mode when the last round ended.

        Args:
            batches: This worker's training batches; all workers together use as many as the
                policy says. None leaves the statistics as they are, with a warning where the policy
                is to estimate them anew.
            forward: Calls the model with a batch.
            warn: Whether to say so.

        Raises:
            ConfigurationError: A rank had no batches, or could not use them; on all ranks alike,
                and the statistics are as before.
        """
        norms = self._moving()
        if norms and batches is not None:
            self._estimate(norms, batches, forward)
        elif norms and warn and self._how.policy == "reestimate":
            self._warn()

    def _estimate(
        self, norms: Sequence[_BatchNorm], batches: Iterable[Any], forward: Forward | None
    ) -> None:
        world, seen, failed = self._world, 0, None
        of_norms = [buffer for norm in norms for buffer in norm._buffers.values()]
        others = BufferBackup(self._model, but=[b for b in of_norms if b is not None])
        before = BufferBackup(self._model)
        try:
            share = itertools.islice(batches, self._how.share(world.K))
            seen = estimate(self._model, norms, share, forward, world.device)
        except Exception as error:  # the others are told before it continues
            failed = error
        others.restore()
        counts = self._everyone.gather(np.array([[-1.0 if failed else float(seen)]]))
        if (counts <= 0).any():
            before.restore()
        if failed is not None:
            raise failed
        if (counts < 0).any():
            raise ConfigurationError(
                f"batches: rank {int(np.argmin(counts))} could not estimate BatchNorm statistics "
                "from its batches; it says why"
            )
        if not counts.all():
            raise ConfigurationError(
                f"batches: {int((counts == 0).sum())} of {len(counts)} ranks had none to "
                "estimate BatchNorm statistics from: give every rank a loader of its own data"
            )

    def _moving(self) -> list[_BatchNorm]:
        """Return the norms to estimate, the same on all ranks: those that train on each."""
        norms = norms_of(self._model)
        trained = self._training_now() if self._model.training else self._trained
        moving = {name: norm for name, norm in norms.items() if id(norm) in trained}
        same = in_common(self._everyone, list(moving))
        return [norm for norm, everywhere in zip(moving.values(), same, strict=True) if everywhere]

    def _training_now(self) -> set[int]:
        return {id(norm) for norm in self._norms if norm.training}

    def _found(self) -> list[Buffer]:
        return [b for b in buffers_of(self._model, self.averaged) if b.statistic]

    def _check(self, found: Sequence[Buffer]) -> None:
        now = [str(buffer) for buffer in found]
        if now != self._at_attach:
            changed = sorted(set(now) ^ set(self._at_attach))
            raise RuntimeError(
                f"running statistics came, went or changed their shape after attach: {changed[:4]}:"
                " call sync.finish() before that, and attach again after it"
            )

    def _warn(self) -> None:
        """Warn once, on rank 0, that the statistics do not belong to the mean model."""
        if self._warned or self._everyone.rank != 0:
            return
        self._warned = True
        warnings.warn(
            "BatchNorm: the mean model is evaluated with the mean of the workers' statistics, "
            "which were taken on other parameters; give training batches, "
            'sync.averaged(batches=loader), or attach(..., batchnorm="average")',
            stacklevel=2,
        )
