"""What a plan says, as its page and its JSON want it. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc_localsgd.commands.plan.planned_run import PlannedRun
    from hpc_localsgd.cost.advice import Advice
    from hpc_localsgd.cost.cost_model import Network
    from hpc_localsgd.cost.preview import Preview
    from hpc_localsgd.trajectory import DiskEstimate


@dataclass(frozen=True)
class Memory:
    """Bytes of a worker that has a process of its own; activations are NaN if not measured."""

    parameters: float
    gradients: float
    optimiser: float
    algorithm: float
    activations: float = math.nan

    @property
    def total(self) -> float:
        """Sum of all that is known."""
        known = 0.0 if math.isnan(self.activations) else self.activations
        return self.checkpointed + self.gradients + known

    @property
    def checkpointed(self) -> float:
        """Part of it that a checkpoint holds."""
        return self.parameters + self.optimiser + self.algorithm


@dataclass(frozen=True)
class PlanReport:
    """A plan and everything it was made from."""

    planned: PlannedRun
    plan: Preview
    network: Network
    optimizer: str
    memory: Memory
    disk: DiskEstimate
    topology: str
    gap: float
    time_limit_s: float
    advice: tuple[Advice, ...]
    parallel: bool = False  # gradients are averaged at every step, whatever the schedule says
