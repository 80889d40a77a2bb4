"""BatchNorm's running statistics, which averaging the parameters does not average.

The statistics of a worker belong to its own parameters, not to the mean of all. Three policies:

- `reestimate` (default): kept local in training; before an evaluation of the mean model they are
  re-estimated on training batches, as a cumulative mean, and averaged over the workers (Gu et
  al. 2023 and the QSR code do this with 100 batches).
- `average`: averaged at every exchange, like parameters, and sent with them.
- `local`: never exchanged in training; the mean model is evaluated with the mean of the workers'
  statistics.

Integer buffers (BatchNorm's counters) are never averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import Vector
    from hpc_localsgd.worlds.base import World

Policy = Literal["reestimate", "average", "local"]


@dataclass(frozen=True)
class BatchNorm:
    """Policy for floating-point buffers at an exchange and before an evaluation.

    Attributes:
        policy: "reestimate", "average" or "local".
        batches: Training batches of one worker used by all workers together to re-estimate.
    """

    policy: Policy = "reestimate"
    batches: int = 100

    def share(self, K: int) -> int:
        """Return how many batches each of K workers uses to re-estimate."""
        return max(1, self.batches // K)

    def on_sync(self, task: Task, world: World) -> None:
        """Average the buffers [R, Q] at an exchange, if that is the policy."""
        if self.policy == "average" and task.buffers.numel():
            world.mean(task.buffers)

    def for_evaluation(self, x: Vector, task: Task, world: World) -> Vector:
        """Return buffers [Q] for evaluating the model x [P]. A collective, not billed."""
        if not task.buffers.numel():
            return task.buffers[0]
        with world.ledger.unbilled():
            rows = task.buffers.clone()
            if self.policy == "reestimate":
                rows = torch.stack(
                    [self._estimate(x, task, k, world.K) for k in world.local_workers]
                )
            return world.mean(rows)[0]

    def _estimate(self, x: Vector, task: Task, worker: int, K: int) -> Vector:
        """Return one worker's share of the statistics: the training batches of its first steps."""
        batches = (task.batch([worker], t) for t in range(self.share(K)))
        return task.statistics(x, [(inputs[0], labels[0]) for inputs, labels in batches])
