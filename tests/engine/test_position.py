"""Where in its rounds a run is, and what the schedule is told of an exchange."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_runs import quadratic, small_run

from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.engine.position import Position, RoundPosition, distance_before
from hpc_localsgd.schedules.base import Schedule
from hpc_localsgd.schedules.local_steps import every
from hpc_localsgd.schedules.rates import cosine
from hpc_localsgd.worlds.simulated import Simulated


def test_before_the_first_step_a_round_is_due() -> None:
    p = RoundPosition()
    assert (p.t, p.s, p.begin, p.end, p.H, p.due, p.parallel) == (0, -1, 0, 0, 0, True, True)


def test_rounds_follow_each_other_and_stay_no_longer_parallel() -> None:
    seen, p = [], RoundPosition()
    for H in (1, 1, 3, 1):
        p = p.next_round(H)
        assert not p.due
        seen.append((p.s, p.begin, p.end, p.H, p.parallel))
        p.t = p.end
        assert p.due
    assert seen == [
        (0, 0, 1, 1, True),
        (1, 1, 2, 1, True),
        (2, 2, 5, 3, False),
        (3, 5, 6, 1, False),  # after local steps a round of one step is no parallel SGD
    ]


def test_what_an_algorithm_is_told_of_a_step() -> None:
    now = RoundPosition(t=4, s=2, begin=4, end=7, parallel=False).at_step(5, 0.2, 0.3, last=True)
    assert (now.t, now.s, now.H, now.h, now.lr, now.lr_round) == (5, 2, 3, 1, 0.2, 0.3)
    assert now.last and not now.parallel


def test_the_last_round_is_the_one_that_ends_with_the_run() -> None:
    run = small_run(H=3, steps=5, lr=cosine(lr=0.1, until=5))
    p = run.beginning()
    said = []
    for t in (0, 3):
        p.t = t
        p = p.next_round(run.round_length(p))
        now = p.now(run, t + 1)
        said.append((p.H, now.last, now.lr == run.rate(t + 1), now.lr_round == run.rate(t)))
    assert said == [(3, False, True, True), (2, True, True, True)]


def test_rows_of_its_own_that_an_algorithm_returns_go_into_the_storage() -> None:
    run = small_run(K=2)
    p = run.beginning()
    mine = torch.full_like(p.x, 3.0)
    p.take(mine, {"new": 1})
    assert p.x is run.task.x and (run.task.x == 3).all() and p.state == {"new": 1}


class Told(Schedule):
    """Remembers the last distance it was told of."""

    observes = True  # type: ignore[misc]

    def __init__(self, apart: float | None = None) -> None:
        self.apart = apart

    def __call__(self, t: int, lr: float) -> int:
        return 2

    def observe(self, consensus_distance: float) -> Told:
        return Told(consensus_distance)


def position(schedule: Schedule, **given: Any) -> tuple[Any, Position]:
    run = small_run(K=2, H=schedule, spec=quadratic(dim=2), **given)
    p = run.beginning()
    p.x.copy_(torch.tensor([[1.0, 5.0], [3.0, 1.0]]))
    return run, p


@pytest.mark.parametrize("algorithm", [LocalSGD("parameters"), Gossip()])
def test_a_schedule_is_told_how_far_workers_were_apart_before_the_exchange(algorithm: Any) -> None:
    """mean_k ||x_k - mean||^2 of rows (1, 5) and (3, 1) is 1 + 4."""
    run, p = position(Told(), algorithm=algorithm)
    before = p.before_exchange(run)
    assert before is not None and before is not p.x
    p.take(*algorithm.on_sync(p.x, p.state, run.world, p.next_round(2).now(run, 1)))
    p.observe(run, before, torch.zeros(2))
    assert p.schedule.apart == pytest.approx(5.0)  # type: ignore[attr-defined]


def test_a_schedule_that_does_not_observe_costs_nothing() -> None:
    run, p = position(every(2))
    assert p.before_exchange(run) is None
    schedule = p.schedule
    p.observe(run, None, torch.zeros(2))
    assert p.schedule is schedule


def test_the_distance_of_a_model_in_parts_is_the_sum_over_them() -> None:
    parts = [torch.tensor([[1.0, 5.0], [3.0, 1.0]]), torch.tensor([[0.0], [2.0]])]
    after = [part.mean(0, keepdim=True).expand_as(part) for part in parts]
    for algorithm in (LocalSGD(), Gossip()):
        found = distance_before(parts, after, algorithm, Simulated(2))
        assert found == pytest.approx(6.0)


def test_the_mean_that_an_algorithm_leaves_is_not_computed_again() -> None:
    """Where it ends elsewhere than at the mean, the mean is taken of the workers themselves."""
    x, elsewhere = torch.tensor([[1.0], [3.0]]), torch.tensor([[7.0], [7.0]])
    assert LocalSGD().ends_at_mean and not Gossip().ends_at_mean
    assert distance_before([x], [elsewhere], LocalSGD(), Simulated(2)) == pytest.approx(26.0)
    assert distance_before([x], [elsewhere], Gossip(), Simulated(2)) == pytest.approx(1.0)
