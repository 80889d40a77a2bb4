"""What an attached run is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.attach.collectives import Collectives
from hpc_localsgd.attach.grid import RankGrid
from hpc_localsgd.attach.running_statistics import Statistics
from hpc_localsgd.attach.shards import reshard
from hpc_localsgd.attach.storage import Group
from hpc_localsgd.engine.non_finite import OnNan
from hpc_localsgd.schedules.base import Schedule

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class AttachContext:
    """What a `Sync` is made of, checked and the same on all ranks."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    algorithm: Algorithm
    schedule: Schedule
    grid: RankGrid
    collectives: Collectives
    groups: list[Group]
    frozen: list[nn.Parameter]
    gathered: list[Any]
    statistics: Statistics
    steps: int | None
    bucket_bytes: int
    check_rounds: bool
    on_nan: OnNan = "stop"

    @property
    def world(self) -> World:
        """The ranks with which this one exchanges."""
        return self.grid.world

    @property
    def lr(self) -> float:
        """The learning rate of the optimizer's first group, which is what schedules see."""
        return float(self.optimizer.param_groups[0].get("lr", 0.0))

    def reshard(self) -> None:
        """Let go of parameters that a forward pass has gathered from shards."""
        reshard(self.gathered)

    def left_out(self, H: int, skipped: bool) -> bool:
        """Return whether no rank takes this step, since one does not and all are to stay equal.

        A collective where gradients keep the workers equal, not billed.

        Args:
            H: Length of the round.
            skipped: Whether this rank does not: a GradScaler has seen an overflow.
        """
        if not (self.algorithm.ends_equal and self.algorithm.exchanges_gradients(H)):
            return False
        return bool(self.grid.everyone.gather(np.array([[skipped]])).any())

    def finite(self) -> bool:
        """Return whether every number is finite that an exchange of this rank would send.

        Running statistics count where rounds average them, and in quarantine, which can repair
        them: a step that a GradScaler skipped leaves parameters finite and statistics not.
        """
        if not all(group.finite() for group in self.groups):
            return False
        looks = self.on_nan == "quarantine" or self.statistics.averages
        return not looks or self.statistics.finite()

    def check_finite(self, t: int, every: int) -> None:
        """Check parameters that are equal on all ranks.

        Args:
            t: Steps taken.
            every: Of so many steps, one is followed by this check.

        Raises:
            RuntimeError: They are not finite, on all ranks alike.
        """
        mine = self.finite()
        everyone = self.grid.everyone
        if self.grid.shards > 1:  # where each rank has looked at a part
            mine = bool(everyone.gather(np.array([[mine]], dtype=bool)).all())
        if not mine:
            raise RuntimeError(
                f"the parameters of all ranks are not finite after step {t - 1}: within the last "
                f"{every} steps a rank's gradient was not, and went into the average; take a "
                "smaller learning rate, clip gradients, or leave such ranks out by "
                'attach(on_nan="quarantine")'
            )
