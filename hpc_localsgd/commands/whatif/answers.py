"""Questions about a recorded run, and their answers: seconds, bytes, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from hpc_localsgd.commands.configuration.config import Resolved
from hpc_localsgd.commands.plan.planned_run import PlannedRun
from hpc_localsgd.commands.plan.rehearsal import Rehearsal
from hpc_localsgd.commands.plan.report import acted_out, check_patience
from hpc_localsgd.commands.whatif.basis import Basis
from hpc_localsgd.commands.whatif.networks import RecordedNetwork
from hpc_localsgd.cost.cost_model import Network
from hpc_localsgd.cost.preview import Preview
from hpc_localsgd.schedules.base import Schedule
from hpc_localsgd.schedules.local_steps import every
from hpc_localsgd.types import legend


@dataclass(frozen=True)
class Answer:
    """What a run would take.

    Attributes:
        network: Between its workers.
        planned: The run.
        plan: Its rounds, bytes and seconds.
        waiting_s: Seconds that the mean worker waits for the slowest.
        parallel_wait_s: The same in parallel SGD.
        step_off: Relative error of the seconds of a step.
        network_off: Of the seconds of exchanges; 0 where it is not known.
    """

    network: Network
    planned: PlannedRun
    plan: Preview
    waiting_s: float
    parallel_wait_s: float
    step_off: float
    network_off: float

    @property
    def algorithm(self) -> str:
        """Legend of the method."""
        return legend(self.planned.config.algorithm)

    @property
    def rounds(self) -> int:
        """Exchanges: one a round, or one a step where gradients are averaged at every step."""
        every = self.planned.config.algorithm.sends_gradients
        return self.plan.steps if every else self.plan.rounds

    def total_s(self, slower: float = 1.0, dearer: float = 1.0) -> float:
        """Return the seconds of the run.

        Args:
            slower: Factor on what a step takes.
            dearer: Factor on what an exchange takes.
        """
        return slower * (self.plan.compute_s + self.waiting_s) + dearer * self.plan.exchange_s

    def parallel_s(self, slower: float = 1.0, dearer: float = 1.0, hides: bool = False) -> float:
        """Return the seconds of parallel SGD, which averages gradients at every step.

        Args:
            slower: Factor on what a step takes.
            dearer: Factor on what an exchange takes.
            hides: Whether it hides all that a step's computing can hide, the most there is.
        """
        computing, talking = slower * self.plan.compute_s, dearer * self.plan.parallel_s
        shown = max(0.0, talking - computing) if hides else talking
        return computing + slower * self.parallel_wait_s + shown

    def share(self, slower: float = 1.0, dearer: float = 1.0) -> float:
        """Return the part of waiting and of exchanges in the seconds; NaN of no seconds."""
        total = self.total_s(slower, dearer)
        communicating = slower * self.waiting_s + dearer * self.plan.exchange_s
        return communicating / total if total else math.nan

    def speed_up(self, slower: float = 1.0, dearer: float = 1.0, hides: bool = False) -> float:
        """Return how many times sooner it ends than parallel SGD."""
        return self.parallel_s(slower, dearer, hides) / self.total_s(slower, dearer)

    def off(self, what: Callable[[float, float], float]) -> float:
        """Return the deviation of a figure, from those of a step and of an exchange.

        Args:
            what: The figure, of factors on the seconds of a step and of an exchange.
        """
        step, net = self.step_off, self.network_off
        by_step = what(1 + step, 1.0) - what(max(0.0, 1 - step), 1.0)
        by_net = what(1.0, 1 + net) - what(1.0, max(0.0, 1 - net))
        return math.hypot(by_step, by_net) / 2


@dataclass(frozen=True)
class Question:
    """What is varied.

    Attributes:
        networks: Between the workers.
        workers: K.
        every: H; none for the run's own schedule.
        methods: Options that are typed, a list a method.
        strong: Share the samples of the run among more workers, in fewer steps.
    """

    networks: Sequence[Network]
    workers: Sequence[int]
    every: Sequence[int]
    methods: Sequence[Sequence[str]]
    strong: bool = False


def answers(known: Basis, asked: Question) -> Iterator[Answer]:
    """Answer all combinations, networks outermost."""
    methods = [known.resolved(words) for words in asked.methods]
    for network in asked.networks:
        for K in asked.workers:
            for resolved in methods:
                for H in asked.every or (0,):
                    yield answer(known, _planned(known, resolved, K, H, asked.strong), network)


def _planned(known: Basis, resolved: Resolved, K: int, H: int, strong: bool) -> PlannedRun:
    """Return a run; with its rounds as they were recorded where nothing changes them."""
    schedule = resolved.config.schedule
    if H:
        config = replace(resolved.config, schedule=with_length(schedule, H))
        return known.planned(replace(resolved, config=config), K, strong)
    planned = known.planned(resolved, K, strong)
    same = schedule == known.own.config.schedule
    return known.as_it_was(planned) if same and planned.steps == known.steps else planned


def with_length(schedule: Schedule, H: int) -> Schedule:
    """Return the schedule with H local steps: those of Post-local SGD behind its switch."""
    if isinstance(getattr(schedule, "every", None), int):
        changed: Schedule = replace(schedule, every=H)  # type: ignore[type-var]
        return changed
    return every(H)


def answer(known: Basis, planned: PlannedRun, network: Network) -> Answer:
    """Act out the exchanges of a run, and add up."""
    check_patience(planned)
    times, K = known.times, planned.workers
    rehearsal = Rehearsal(planned, network, times.step_s)
    plan = acted_out(planned, network, rehearsal, times.step_s)
    waiting_s = sum(s.rounds * times.waiting_s(s.H, K) for s in plan.stretches)
    off = max((cost.off for cost in network.costs.values()), default=0.0)
    if isinstance(network, RecordedNetwork):
        plan, off = network.billed(plan, planned.config.algorithm)
    parallel_wait_s = planned.steps * times.waiting_s(1, K)
    return Answer(network, planned, plan, waiting_s, parallel_wait_s, times.off, off)
