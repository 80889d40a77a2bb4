"""The mean model in place of the worker's own: what rounds exchange, and everything beside it.

parameters that rounds exchange      the algorithm's model to evaluate
parameters without gradient          averaged where they differ (a teacher, say)
running statistics                   estimated on batches, or averaged where they differ
other buffers that are saved         rank 0's where they differ and their shapes do not
vectors of `spectral_norm`           rank 0's, and iterated for the mean weight
caches, sparse buffers               left alone
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hpc_localsgd.attach import other_tensors
from hpc_localsgd.attach.batchnorm_estimate import Forward
from hpc_localsgd.attach.buffers import Buffer, buffers_of, described
from hpc_localsgd.attach.running_statistics import Statistics
from hpc_localsgd.attach.shards import local
from hpc_localsgd.attach.spectral_norm import iterate
from hpc_localsgd.engine.agreement import SAID_BYTES
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.gather_texts import gather_texts

if TYPE_CHECKING:
    from hpc_localsgd.attach.backup import ModelBackup
    from hpc_localsgd.attach.exchange import Exchange
    from hpc_localsgd.attach.grid import RankGrid
    from hpc_localsgd.attach.storage import Group


class MeanModel:
    """Change of a worker's model to the mean model. Collectives, not billed."""

    def __init__(
        self,
        model: nn.Module,
        grid: RankGrid,
        groups: Sequence[Group],
        exchange: Exchange,
        statistics: Statistics,
    ) -> None:
        self._model, self._world, self._exchange = model, grid.world, exchange
        self._everyone = grid.everyone
        self._groups = groups
        self._exchanged = {id(p) for group in groups for p in group.parameters}
        self._statistics = statistics
        self._said: set[str] = set()

    def show(
        self,
        equal: bool,
        batches: Iterable[Any] | None,
        forward: Forward | None,
        backup: ModelBackup | None = None,
        warn: bool = True,
    ) -> None:
        """Leave the mean model in the module.

        Args:
            equal: All workers hold the same exchanged parameters already.
            batches: This worker's training batches, to estimate BatchNorm's statistics from.
            forward: Calls the model with a batch.
            backup: Is told of what is changed besides exchanged parameters and buffers.
            warn: Say where statistics are not those of the mean model.

        Raises:
            ConfigurationError: Parameters or running statistics of other shapes on other ranks, or
                batches that cannot be used; on all ranks alike.
        """
        with self._world.ledger.unbilled():
            if not equal or self.apart():
                self._exchange.to_mean()
            self._parameters(backup)
            buffers = self._buffers()
            iterate(self._model)
            self._statistics.estimate(batches, forward, warn)
            self._average_where_they_differ([b.values() for b in buffers if b.statistic])

    def apart(self) -> bool:
        """Return whether parameters differ that rounds have left equal; say so on rank 0.

        A rank may have loaded or initialised its own, after attach or after an exchange.
        """
        parts = [part for group in self._groups for part in group.parts]
        if not any(other_tensors.differ(self._world, parts)):
            return False
        if self._everyone.rank == 0:
            warnings.warn(
                "the ranks' parameters differ where rounds leave them equal (loaded or initialised "
                "by each rank for itself after attach, or optimizer.step() left out on one?): the "
                "mean of what they hold is taken; load and initialise before attach, or give sync "
                "its state (sync.load_state_dict)",
                stacklevel=2,
            )
        return True

    def _parameters(self, backup: ModelBackup | None) -> None:
        """Average what no round exchanges."""
        rest = [
            (described(name, p), local(p))
            for name, p in sorted(self._model.named_parameters())
            if id(p) not in self._exchanged and p.layout is torch.strided and not p.is_meta
        ]
        self._refuse([line for line, _ in rest], "parameter")
        self._average_where_they_differ([p for _, p in rest], backup)

    def _buffers(self) -> list[Buffer]:
        """Make the other buffers rank 0's; return those that all ranks have."""
        found = buffers_of(self._model, self._statistics.averaged)
        found = [b for b in found if b.plain and (b.statistic or b.persistent)]
        self._refuse([str(b) for b in found if b.statistic], "running statistic")
        everywhere = other_tensors.in_common(self._everyone, [str(b) for b in found])
        self._tell([b.name for b, yes in zip(found, everywhere, strict=True) if not yes])
        found = [b for b, yes in zip(found, everywhere, strict=True) if yes]
        others = [b.values() for b in found if not b.statistic]
        differ = other_tensors.differ(self._world, others)
        other_tensors.take_rank_0s(
            self._world, [x for x, yes in zip(others, differ, strict=True) if yes]
        )
        return found

    def _average_where_they_differ(
        self, tensors: Sequence[torch.Tensor], backup: ModelBackup | None = None
    ) -> None:
        """Average real numbers, take rank 0's of others; equal ones are not even rounded."""
        differ = other_tensors.differ(self._world, tensors)
        changed = [x for x, yes in zip(tensors, differ, strict=True) if yes]
        if backup is not None:
            backup.keep(changed)
        changed = [torch.view_as_real(x) if x.is_complex() else x for x in changed]
        other_tensors.average(self._world, [x for x in changed if x.is_floating_point()])
        other_tensors.take_rank_0s(self._world, [x for x in changed if not x.is_floating_point()])

    def _refuse(self, lines: Sequence[str], what: str) -> None:
        """Refuse the first that not all ranks have, with its shapes."""
        missing = [
            line
            for line, yes in zip(lines, other_tensors.in_common(self._everyone, lines), strict=True)
            if not yes
        ]
        said = gather_texts(self._everyone, missing[0] if missing else "", SAID_BYTES)
        first = min(filter(None, said), default="")
        if not first:
            return
        name = first.split(" ")[0]
        mine = next((line for line in missing if line.split(" ")[0] == name), "none")
        said = gather_texts(self._everyone, mine, SAID_BYTES)
        other = next(rank for rank, text in enumerate(said) if text != said[0])
        raise ConfigurationError(
            f"the {what} {name} cannot be averaged: rank 0 has {said[0]}, rank {other} has "
            f"{said[other]}; give it the same shape on every rank"
        )

    def _tell(self, names: Sequence[str]) -> None:
        """Warn once of a saved buffer that it stays each rank's own."""
        new = [name for name in names if name not in self._said]
        self._said.update(new)
        if new and self._everyone.rank == 0:
            warnings.warn(
                f"these buffers have other shapes on other ranks, and each keeps its own: "
                f"{', '.join(new[:8])}; register a cache with persistent=False",
                stacklevel=2,
            )
