"""The loop. Everything else in the package exists so that this fits on one screen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpc_localsgd.measured import NEXT_H
from hpc_localsgd.types import Now, State

if TYPE_CHECKING:
    from hpc_localsgd.algorithms.base import Algorithm
    from hpc_localsgd.batchnorm import BatchNorm
    from hpc_localsgd.optimizer import LocalOptimizer
    from hpc_localsgd.plan.rates import Rate
    from hpc_localsgd.plan.schedule import Schedule
    from hpc_localsgd.recorder import Recorder
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class Run:
    """What does not change during a run: its objects and its length in steps."""

    task: Task
    algorithm: Algorithm
    schedule: Schedule
    rate: Rate
    optimizer: LocalOptimizer
    batchnorm: BatchNorm
    world: World
    steps: int

    def round_length(self, p: Position) -> int:
        """H of the round that starts now, shortened to end with the run."""
        asked = p.sync.get(NEXT_H) or self.schedule(p.t, self.rate(p.t))
        return min(asked, self.steps - p.t)


@dataclass
class Position:
    """What changes: parameters, the algorithm's memory, and where in the run we are.

    Attributes:
        x: [R, P], the workers' parameters (the task's own storage).
        sync: What the algorithm remembers.
        t: Steps taken.
        s: Round, counted from 0.
        begin: First step of the round.
        end: Step at which the round ends; equal to t when a new round is due.
    """

    x: Rows
    sync: State
    t: int = 0
    s: int = -1
    begin: int = 0
    end: int = 0

    def next_round(self, H: int) -> Position:
        """The same place, at the beginning of a round of H steps."""
        return replace(self, s=self.s + 1, begin=self.t, end=self.t + H)

    def take(self, x: Rows, sync: State) -> None:
        """What an algorithm returned. Rows of its own go into the storage, which is stepped on."""
        if x is not self.x:
            self.x.copy_(x)
        self.sync = sync

    def now(self, run: Run, t: int) -> Now:
        """What an algorithm may know about step t of this round."""
        lr, lr_round = run.rate(t), run.rate(self.begin)
        last, parallel = self.end == run.steps, self.end == self.s + 1
        H, h = self.end - self.begin, t - self.begin
        return Now(t, self.s, H, h, lr, lr_round, last=last, parallel=parallel)


def train(run: Run, p: Position, record: Recorder) -> Position:
    """Go on from p to the end of the run: rounds of local steps, each ended by an exchange."""
    task, algorithm, optimizer, world = run.task, run.algorithm, run.optimizer, run.world
    while p.t < run.steps:
        if p.t == p.end:
            p = p.next_round(run.round_length(p))
        now = p.now(run, p.t)
        batch, begin = task.batch(world.ranks, p.t), algorithm.in_backward(p.sync, world, now)
        if begin is None:
            loss, g = task.loss_and_grad(p.x, batch)
            g, p.sync = algorithm.on_gradient(g, p.sync, world, now)
        else:
            loss, g = task.loss_and_mean_grad(p.x, batch, begin)
        optimizer.step(g, now.lr)
        p.t += 1
        record.after_step(loss)
        if p.t < p.end:
            p.take(*algorithm.on_step(p.x, p.sync, world, now))
        else:
            record.before_sync(p, now)
            p.take(*algorithm.on_sync(p.x, p.sync, world, now))
            optimizer.on_sync(world, now)
            run.batchnorm.on_sync(task, world)
            record.after_sync(p, now)
        record.measure(p)
        record.keep(p)
    return p
