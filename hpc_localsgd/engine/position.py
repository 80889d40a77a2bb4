"""A run and the position in it: what stays, and what changes with every step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpc_localsgd.types import Footprint, Now, State
from hpc_localsgd.worlds.consensus import consensus_distance

if TYPE_CHECKING:
    from hpc_localsgd.algorithms.base import Algorithm
    from hpc_localsgd.engine.batchnorm import BatchNorm
    from hpc_localsgd.engine.optimizer import LocalOptimizer
    from hpc_localsgd.schedules.base import Schedule
    from hpc_localsgd.schedules.rates import Rate
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class Run:
    """What does not change during a run: its objects and its length in steps.

    Its schedule is the one it begins with; the one it has come to is part of the position.
    """

    task: Task
    algorithm: Algorithm
    schedule: Schedule
    rate: Rate
    optimizer: LocalOptimizer
    batchnorm: BatchNorm
    world: World
    steps: int

    def beginning(self) -> Position:
        """Return the position before the first step, from the parameters that the task holds."""
        x = self.task.x
        model = Footprint(self.task.sizes, x.element_size())
        return Position(x, self.algorithm.init(x, self.world, model), self.schedule)

    def round_length(self, p: Position) -> int:
        """Return H of the round that starts now, shortened to end with the run."""
        return min(p.schedule(p.t, self.rate(p.t)), self.steps - p.t)


@dataclass
class Position:
    """What changes: parameters, what is remembered, and where in the run we are.

    Attributes:
        x: [R, P], the workers' parameters (the task's own storage).
        sync: What the algorithm remembers.
        schedule: Of the rounds to come, with what it has observed.
        t: Steps taken.
        s: Round, counted from 0.
        begin: First step of the round.
        end: Step at which the round ends; equal to t when a new round is due.
        parallel: Whether all rounds so far, this one included, had length 1.
    """

    x: Rows
    sync: State
    schedule: Schedule
    t: int = 0
    s: int = -1
    begin: int = 0
    end: int = 0
    parallel: bool = True

    def next_round(self, H: int) -> Position:
        """Return the same place, at the beginning of a round of H steps."""
        parallel = self.parallel and H == 1
        return replace(self, s=self.s + 1, begin=self.t, end=self.t + H, parallel=parallel)

    def take(self, x: Rows, sync: State) -> None:
        """Take over what an algorithm returned; rows of its own go into the storage."""
        if x is not self.x:
            self.x.copy_(x)
        self.sync = sync

    def now(self, run: Run, t: int) -> Now:
        """Return what an algorithm may know about step t of this round."""
        lr, lr_round = run.rate(t), run.rate(self.begin)
        last, H, h = self.end == run.steps, self.end - self.begin, t - self.begin
        return Now(t, self.s, H, h, lr, lr_round, last=last, parallel=self.parallel)

    def before_exchange(self, run: Run) -> Rows | None:
        """Return a copy of the parameters, if the schedule observes the exchange; else None."""
        with run.world.ledger.unbilled():
            return self.x.clone() if self.schedule.observes else None

    def observe(self, run: Run, before: Rows | None) -> None:
        """Tell the schedule how far the workers were apart before the exchange. A collective.

        Args:
            run: The run.
            before: [R, P], the parameters before the exchange; None if nobody asks.
        """
        if before is not None:
            mean = self.x[0] if run.algorithm.ends_at_mean else None
            self.schedule = self.schedule.observe(consensus_distance(before, mean, run.world))
