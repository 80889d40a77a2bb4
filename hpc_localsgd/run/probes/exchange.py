"""What probes see of an exchange: the workers at one moment of it, and their mean.

Where an exchange leaves all workers equal (Local SGD) there is nothing to see after it: everything
that is taken from their deviations is of the moment *before*. Where they stay different (gossip) it
is of the moment *after*, for that is where the next gradients are taken, in both orders of the mix:
adapt-while-communicate takes them at the parameters that the round before ended with. Zhu's Xi and
gap, Zhang's sigma_w and effective learning rate mean this moment. What is measured before such an
exchange as well has `before_exchange/` in front of its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from hpc_localsgd.curvature.eigenvalues import rounding
from hpc_localsgd.run.probes.base import Measurement

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Position, Run
    from hpc_localsgd.tasks.base import Batch
    from hpc_localsgd.types import Now, Rows, Vector

BEFORE = "before_exchange/"
MOMENT = "after the exchange, or before it where it makes all workers equal"
"""Which moment a series is of, for its `meaning`: one definition for every algorithm."""


@dataclass
class ExchangeView:
    """The workers around an exchange; what several probes need is computed once.

    Attributes:
        run: The run.
        t: Steps taken; the batches of step t are those the run takes next.
        lr: Learning rate of the step whose gradients are meant: the next one after an exchange that
            leaves the workers different, the last one before an exchange that makes them equal.
        before: [R, P], a copy of the parameters before the exchange.
        known: [P], the mean of `rows` over all workers, where the algorithm has left it.
        after: [R, P], the parameters after the exchange, if it leaves the workers different.
    """

    run: Run
    t: int
    lr: float
    before: Rows
    known: Vector | None
    after: Rows | None = None

    @property
    def rows(self) -> Rows:
        """Workers at the moment that is measured, [R, P]."""
        return self.before if self.after is None else self.after

    @cached_property
    def mean(self) -> Vector:
        """Mean of all workers, [P]. A collective, unless it is known."""
        if self.known is not None:
            return self.known
        return self.run.world.mean(self.rows.clone())[0]

    @cached_property
    def buffers(self) -> Vector:
        """Buffers [Q] for the mean and everything near it. A collective."""
        return self.run.batchnorm.for_evaluation(self.mean, self.run.task, self.run.world)

    @cached_property
    def rounding(self) -> float:
        """Spread up to which workers are equal but for the rounding of their dtype."""
        return rounding(self.mean, torch.finfo(self.mean.dtype).eps)

    def share(self, worker: int, samples: int, undisturbed: bool = True) -> list[Batch]:
        """Return a worker's part of the fixed subset: its batches of the first steps of the run.

        All K parts together are about `samples` training samples, the same at every exchange and on
        both sides of it, drawn by the run's seed; at least one batch a worker. As they are trained
        on they are the first of a phase (`Task.phase_begin`): other samples in each.

        Args:
            worker: Whose part.
            samples: Size of the whole subset.
            undisturbed: As the samples are stored; else as they are trained on, with augmentation,
                noise and mixup.
        """
        task, K = self.run.task, self.run.world.K
        steps = max(1, samples // (K * task.partition.batch))
        begin = 0 if undisturbed else task.phase_begin(self.t)
        return [self.batch(worker, begin + i, undisturbed) for i in range(steps)]

    def batch(self, worker: int, t: int, undisturbed: bool = True) -> Batch:
        """Return one batch [B, ...] of a worker, see `share`."""
        if undisturbed:
            return self.run.task.undisturbed(worker, t)
        inputs, targets = self.run.task.batch([worker], t)
        return inputs[0], targets[0]


class AtExchange(ABC):
    """Probe of the first exchange after each multiple of so many steps, and of the last.

    Attributes:
        every: Cadence in steps; 0 means never.
        in_parallel: Whether also at exchanges of single steps that leave all workers equal.
    """

    every: int
    in_parallel = False

    def due(self, run: Run, p: Position, now: Now) -> bool:
        """Return whether to measure at the exchange after p.t steps."""
        apart = now.H > 1 or not run.algorithm.ends_equal
        if self.every <= 0 or not (apart or self.in_parallel):
            return False
        return p.t // self.every > p.begin // self.every or p.t == run.steps

    def check(self, run: Run) -> None:  # noqa: B027
        """Check, before the run begins, that it has what is measured: on all ranks alike.

        Raises:
            ConfigurationError: It has not.
        """

    @abstractmethod
    def measure(self, exchange: ExchangeView) -> Iterator[Measurement]:
        """Yield the values at this exchange, the same on all ranks. May use collectives."""


def gradient(run: Run, x: Vector, batches: list[Batch], buffers: Vector) -> Vector:
    """Return the mean gradient [P] of the plain loss over one worker's batches, in evaluation mode.

    Not `Task.loss_and_grad`: that one moves BatchNorm's statistics and draws dropout's random
    numbers, and measuring must not change the run.
    """
    with torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        loss = torch.stack([run.task.loss(at, batch, buffers) for batch in batches]).mean()
        return torch.autograd.grad(loss, at)[0]
