"""A run and the position in it: what stays, and what changes with every step.

`RoundPosition` says where in its rounds any run is; the trainer's `Position` has the parameters
beside it, `attach`'s what its ranks agreed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from hpc_localsgd.schedules.base import round_length
from hpc_localsgd.types import Now, State
from hpc_localsgd.worlds.consensus import consensus_distance

if TYPE_CHECKING:
    from hpc_localsgd.algorithms.base import Algorithm
    from hpc_localsgd.engine.batchnorm import BatchNorm
    from hpc_localsgd.engine.optimizer import LocalOptimizer
    from hpc_localsgd.schedules.base import Schedule
    from hpc_localsgd.schedules.rates import Rate
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import Losses, Rows
    from hpc_localsgd.worlds.base import World

P = TypeVar("P", bound="RoundPosition")


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
        x, model = self.task.x, self.task.model_size
        return Position(x, self.algorithm.init(x, self.world, model), self.schedule)

    def round_length(self, p: Position) -> int:
        """Return H of the round that starts now, shortened to end with the run."""
        return round_length(p.schedule, p.t, self.rate(p.t), self.steps)


@dataclass(kw_only=True)
class RoundPosition:
    """Where in its rounds a run is; the same on all ranks.

    Attributes:
        t: Steps taken.
        s: Round, counted from 0; -1 before the first.
        begin: First step of the round.
        end: Step at which the round ends; equal to t when a new round is due.
        parallel: Whether all rounds so far, this one included, had length 1.
    """

    t: int = 0
    s: int = -1
    begin: int = 0
    end: int = 0
    parallel: bool = True

    @property
    def due(self) -> bool:
        """Whether a new round begins with the next step."""
        return self.t == self.end

    @property
    def H(self) -> int:
        """Length of the round in steps."""
        return self.end - self.begin

    def next_round(self: P, H: int) -> P:
        """Return the position at the beginning of a round of H steps."""
        parallel = self.parallel and H == 1
        return replace(self, s=self.s + 1, begin=self.t, end=self.t + H, parallel=parallel)

    def at_step(self, t: int, lr: float, lr_round: float, last: bool) -> Now:
        """Return what an algorithm may know about step t of this round.

        Args:
            t: The step.
            lr: Its learning rate.
            lr_round: That of the first step of the round.
            last: Whether the round is the last of the run.
        """
        return Now(t, self.s, self.H, t - self.begin, lr, lr_round, last, self.parallel)


@dataclass
class Position(RoundPosition):
    """What changes in the trainer: parameters, the algorithm's state, and the position in the run.

    Attributes:
        x: [R, P], the workers' parameters (the task's own storage).
        state: Of the algorithm.
        schedule: Of the rounds to come, with what it has observed.
    """

    x: Rows
    state: State
    schedule: Schedule

    def take(self, x: Rows, state: State) -> None:
        """Take over what an algorithm returned; rows of its own go into the storage."""
        if x is not self.x:
            self.x.copy_(x)
        self.state = state

    def now(self, run: Run, t: int) -> Now:
        """Return what an algorithm may know about step t of this round."""
        return self.at_step(t, run.rate(t), run.rate(self.begin), last=self.end == run.steps)

    def before_exchange(self, run: Run) -> Rows | None:
        """Return a copy of the parameters, if the schedule is told of the spread; else None."""
        wanted = self.schedule.observes and self.schedule.told == "spread"
        with run.world.ledger.unbilled():
            return self.x.clone() if wanted else None

    def observe(self, run: Run, before: Rows | None, loss: Losses) -> None:
        """Tell the schedule what it observes. A collective then, not billed.

        Args:
            run: The run.
            before: [R, P], the parameters before the exchange; None if it is not needed.
            loss: [R], of the round's last batches.
        """
        if not self.schedule.observes:
            return
        if before is not None:
            measured = distance_before([before], [self.x], run.algorithm, run.world)
        else:
            measured = float(run.world.gather(loss.detach().double().cpu().numpy()).mean())
        self.schedule = self.schedule.observe(measured)


def distance_before(
    before: Sequence[Rows], after: Sequence[Rows], algorithm: Algorithm, world: World
) -> float:
    """Return the workers' consensus distance before an exchange. A collective, not billed.

    Args:
        before: [R, P] of each part of the model, the parameters before the exchange.
        after: [R, P] of each part, those it left.
        algorithm: Whose exchange it was.
        world: Who the workers are.
    """
    found = 0.0
    for x, new in zip(before, after, strict=True):
        found += consensus_distance(x, new[0] if algorithm.ends_at_mean else None, world)
    return found
