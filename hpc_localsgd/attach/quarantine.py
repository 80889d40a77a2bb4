"""A rank whose numbers are not finite continues from the mean of the others, in a user's loop.

The rule is the trainer's (`engine/non_finite.py`); here it meets what a user's model has besides
parameters: optimisers of every kind, running statistics, a teacher, vectors of `spectral_norm`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_localsgd.attach.buffers import buffers_of, described
from hpc_localsgd.attach.other_tensors import in_common
from hpc_localsgd.attach.shards import local
from hpc_localsgd.attach.spectral_norm import iterate
from hpc_localsgd.attach.storage import wire_dtype
from hpc_localsgd.engine.non_finite import message, non_finite_workers, replace_by_mean, state_like

if TYPE_CHECKING:
    from hpc_localsgd.attach.backup import ModelBackup
    from hpc_localsgd.attach.context import AttachContext
    from hpc_localsgd.types import Rows


class Quarantine:
    """Treatment of ranks whose numbers are not finite. Collectives, not billed."""

    def __init__(self, context: AttachContext) -> None:
        self._context, self._world = context, context.world
        self._grid = context.grid

    def of_gradients(self, rows: Sequence[Rows], t: int) -> None:
        """Replace gradients [1, P] that are not finite, before they are averaged at step t."""
        bad = self._grid.any_of(non_finite_workers(rows, self._world))
        if not bad.any() or bad.all():  # all: a GradScaler's overflow, or found at the round's end
            return
        for row in rows:
            replace_by_mean(row, bad, self._world)
        self._say(bad, f"step {t}, gradients")

    @torch.no_grad()
    def of_models(self, bad: np.ndarray, where: str, backup: ModelBackup | None = None) -> None:
        """Give the ranks `bad` [K] the mean of the others' models.

        Args:
            bad: Some of the ranks, not all.
            where: In the run, for the sentence.
            backup: Where one's own model is given back later: is told of what it does not know. The
                optimiser then forgets nothing.
        """
        if not bad.any():
            return
        for group in self._context.groups:
            with group.rows() as x:
                replace_by_mean(x, bad, self._world)
        self._others(bad, backup)
        if bad[self._world.rank]:
            iterate(self._context.model)
            if backup is None:
                self._forget()
        self._say(bad, where)

    def _others(self, bad: np.ndarray, backup: ModelBackup | None) -> None:
        """Replace running statistics, and of all else that ranks have in common what is not finite.

        A teacher that follows the model by an average would otherwise never be finite again.
        """
        found = [
            (described(name, x), x, statistic)
            for name, x, statistic in self._beside()
            if x.is_floating_point() and x.layout is torch.strided and x.numel() and not x.is_meta
        ]
        everywhere = in_common(self._world, [line for line, _, _ in found])
        common = [item for item, yes in zip(found, everywhere, strict=True) if yes]
        if not common:
            return
        mine = [[not bool(torch.isfinite(x).all()) for _, x, _ in common]]
        broken = self._world.gather(np.array(mine, dtype=bool))[bad].any(0)
        changed = [x for (_, x, stat), yes in zip(common, broken, strict=True) if stat or yes]
        if backup is not None:
            backup.keep(changed)
        for x in changed:
            row = x.reshape(1, -1).to(self._world.device, wire_dtype(x.dtype), copy=True)
            replace_by_mean(row, bad, self._world)
            if bad[self._world.rank]:
                x.copy_(row.view(x.shape))

    def _beside(self) -> Iterator[tuple[str, torch.Tensor, bool]]:
        """Yield name and values of all else, and whether it is a running statistic."""
        context = self._context
        exchanged = {id(p) for group in context.groups for p in group.parameters}
        for name, p in sorted(context.model.named_parameters()):
            if id(p) not in exchanged:
                yield name, local(p), False
        for buffer in buffers_of(context.model, context.statistics.averaged):
            if buffer.plain:
                yield buffer.name, buffer.values(), buffer.statistic

    def _forget(self) -> None:
        """Set momenta and moments to 0.

        As the trainer does: the count of steps stays. What has another form
        (Adafactor's factors, LBFGS's history) and is not finite is made again by the optimiser.
        """
        optimizer = self._context.optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for tensor in state_like(optimizer, parameters):
            tensor.zero_()
        for parameter in parameters:
            if not _finite(optimizer.state.get(parameter, {})):
                optimizer.state.pop(parameter)

    def _say(self, bad: np.ndarray, where: str) -> None:
        if self._grid.everyone.rank == 0:
            who = "rank" if self._grid.shards == 1 else "worker"
            warnings.warn(message(bad, where, who), stacklevel=2)


def _finite(value: Any) -> bool:
    """Return whether all numbers in a state are finite, in lists and dicts of any depth."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(local(value)).all())
    if isinstance(value, dict):
        return all(_finite(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(_finite(each) for each in value)
    return not isinstance(value, float) or math.isfinite(value)
