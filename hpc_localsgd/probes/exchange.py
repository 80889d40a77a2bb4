"""What probes see of an exchange: the workers just before it, and their mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from hpc_localsgd.probes.base import Measurement

if TYPE_CHECKING:
    from hpc_localsgd.loop import Position, Run
    from hpc_localsgd.tasks.base import Batch
    from hpc_localsgd.types import Now, Rows, Vector


@dataclass
class Exchange:
    """The workers before an exchange. What several probes need is worked out once.

    Attributes:
        run: The run.
        t: Steps taken; the batches of step t are those the run takes next.
        lr: Learning rate of the step before the exchange.
        before: [R, P], a copy of the parameters.
        known: [P], their mean over all workers, where the algorithm has left it.
    """

    run: Run
    t: int
    lr: float
    before: Rows
    known: Vector | None

    @cached_property
    def mean(self) -> Vector:
        """The mean of all workers, [P]. A collective, unless it is known."""
        if self.known is not None:
            return self.known
        return self.run.world.mean(self.before.clone())[0]

    @cached_property
    def buffers(self) -> Vector:
        """The buffers [Q] to look at the mean with, and at everything near it. A collective."""
        return self.run.batchnorm.for_evaluation(self.mean, self.run.task, self.run.world)

    def share(self, worker: int, samples: int) -> list[Batch]:
        """A worker's part of the fixed subset: its batches of the first steps of the run.

        All K parts together are about `samples` training samples, the same at every exchange, drawn
        by the run's seed; at least one batch a worker.
        """
        task, K = self.run.task, self.run.world.size
        steps = max(1, samples // (K * task.partition.batch))
        batches = (task.batch([worker], t) for t in range(steps))
        return [(inputs[0], targets[0]) for inputs, targets in batches]


class AtExchange(ABC):
    """Measured at the first exchange after each multiple of so many steps, and at the end.

    Attributes:
        every: Cadence in steps; 0 means never.
        in_parallel: Whether also at exchanges of single steps that leave all workers equal.
    """

    every: int
    in_parallel = False

    def due(self, run: Run, p: Position, now: Now) -> bool:
        """Whether to measure at the exchange after p.t steps."""
        apart = now.H > 1 or not run.algorithm.ends_equal
        if self.every <= 0 or not (apart or self.in_parallel):
            return False
        return p.t // self.every > p.begin // self.every or p.t == run.steps

    @abstractmethod
    def measure(self, exchange: Exchange) -> Iterator[Measurement]:
        """The values at this exchange, the same on all ranks. May use collectives."""


def gradient(run: Run, x: Vector, batches: list[Batch], buffers: Vector) -> Vector:
    """Mean gradient [P] of the plain loss over batches of one worker, in evaluation mode.

    Not `Task.loss_and_grad`: that one moves BatchNorm's statistics and draws dropout's random
    numbers, and measuring must not change the run.
    """
    with torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        loss = torch.stack([run.task.loss(at, batch, buffers) for batch in batches]).mean()
        return torch.autograd.grad(loss, at)[0]
