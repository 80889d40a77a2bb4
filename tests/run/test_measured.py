"""The schedule that observes the workers: the same lengths on every rank, steered to its target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from restated.schedules.local_steps import after_losses
from small_runs import adam, go, small_run

from hpc_localsgd import attach
from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.hierarchical import Hierarchical
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.loop import Position, train
from hpc_localsgd.run.checkpoint import Checkpoints, RankCheckpoint, shard
from hpc_localsgd.run.checkpoint.vetting import check_place
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.schedules.local_steps import (
    Schedule,
    adacomm,
    doubling,
    every,
    post_local,
    spread_triggered,
)
from hpc_localsgd.schedules.rates import constant
from hpc_localsgd.types import legend
from hpc_localsgd.worlds.simulated import Simulated

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("H", "spread", "after"),
    [
        (8, 1e-3, 8),
        (8, 1e-9, 16),
        (8, 1.0, 4),
        (8, 2e-3, 4),
        (1, 0.0, 2),
        (8, NAN, 8),
        (8, INF, 8),
    ],
)
def test_the_next_length_follows_the_spread(H: int, spread: float, after: int) -> None:
    schedule = spread_triggered(target=1e-3).having_observed({"H": H})
    assert schedule(0, 0.1) == H
    assert schedule.observe(spread)(0, 0.1) == after
    assert schedule.observe(spread).observed() == {"H": after}


def test_a_schedule_that_has_observed_is_called_as_before() -> None:
    schedule = spread_triggered(target=1e-3)
    later = schedule.observe(0.0)
    assert later != schedule and (repr(later), legend(later)) == (repr(schedule), legend(schedule))


def test_other_schedules_observe_nothing() -> None:
    for schedule in (every(3), post_local(switch=2), doubling(every=3)):
        assert not schedule.observes and schedule.observe(1.0) is schedule
        assert schedule.observed() == {} and schedule.having_observed({}) is schedule


@pytest.mark.parametrize("values", [{}, {"H": 0}, {"H": "2"}, {"H": True}, {"H": 2, "target": 3}])
def test_what_another_schedule_has_observed_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        spread_triggered().having_observed(values)
    if values:
        with pytest.raises(ConfigurationError):
            every(2).having_observed(values)


WRONG = [{"H": 0}, {"first": "1"}, {"rounds": -1}, {"steps": 1.5}, {"sum": NAN}, {"sum": None}]


@pytest.mark.parametrize("values", WRONG)
def test_what_no_loss_would_have_led_to_is_refused(values: dict[str, Any]) -> None:
    told = adacomm(interval=4).observe(2.0).observe(1.0)
    assert adacomm(interval=4).having_observed(told.observed()) == told
    with pytest.raises(ConfigurationError, match="adacomm cannot resume"):
        adacomm(interval=4).having_observed(told.observed() | values)


def test_rounds_follow_the_loss_of_all_workers_and_a_checkpoint_holds_what_was_told(
    tmp_path: Path,
) -> None:
    """Losses as the task gave them, of the last step of a round; 4 workers."""
    schedule, losses = adacomm(at_first=9, interval=12, decay=0.7), list[float]()
    run = small_run(H=schedule, steps=120, lr=0.05)
    original = run.task.loss_and_grad

    def listened(x: Any, batch: Any) -> Any:
        loss, g = original(x, batch)
        losses.append(float(loss.double().mean()))
        return loss, g

    run.task.loss_and_grad = listened  # type: ignore[method-assign]
    p, memory = go(run)
    ends = [row["step_end"] for row in memory.rounds]
    of_rounds = [losses[end - 1] for end in ends]
    lengths = np.diff([0, *ends]).tolist()
    assert lengths[:-1] == after_losses(9, 12, 0.7, of_rounds)[:-1]
    assert lengths[0] == 9 and len(set(lengths)) > 3
    for at in (5, 40, 41, 77):
        shard_of = saved_at(small_run(H=schedule, steps=120, lr=0.05), at, tmp_path)
        second = small_run(H=schedule, steps=120, lr=0.05)
        q = RankCheckpoint.saved(shard_of).restore(second, second.beginning())
        assert torch.equal(train(second, q, Recorder(second)).x, p.x)


def saved_at(run: Any, at: int, folder: Path) -> Any:
    """The place after `at` steps, written and read."""

    def keep(p: Position) -> None:
        if p.t == at:
            shard.write(folder / "shard.pt", RankCheckpoint.of(run, p, after=0).state)

    train(run, run.beginning(), Recorder(run), keep)
    return shard.read(folder / "shard.pt")


def test_a_loop_of_ones_own_knows_no_loss() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match=r"follows the training loss.*spread_triggered"):
        attach(model, optimizer, schedule=adacomm(), steps=20)


@pytest.mark.parametrize("algorithm", [LocalSGD(), Gossip()], ids=repr)
def test_the_spread_comes_near_its_target(algorithm: LocalSGD | Gossip) -> None:
    schedule = spread_triggered(target=5e-2, at_most=64)
    run = small_run(algorithm=algorithm, H=schedule, steps=600, lr=0.05)
    p, memory = go(run, spread=1)
    lengths = np.array([row["step_end"] - row["step_begin"] for row in memory.rounds])
    name = "spread" if algorithm.ends_equal else "before_exchange/spread"  # what it steers
    late = [float(v) for t, v in memory.values[name] if t > 300]
    assert lengths[0] == 1 and lengths.max() > 4 and lengths.sum() == 600
    assert 1e-2 < np.median(late) < 0.25
    assert p.schedule.observed()["H"] >= 1 and run.schedule.observed() == {"H": None}
    assert set(p.state) == set(run.beginning().state)


@dataclass(frozen=True)
class Telling(Schedule):
    """A schedule of one's own: rounds of 1, 2, 3, ... steps, and a note of what was observed."""

    observes: ClassVar[bool] = True
    _seen: tuple[float, ...] = ()

    def __call__(self, t: int, lr: float) -> int:
        return len(self._seen) + 1

    def observe(self, consensus_distance: float) -> Telling:
        return replace(self, _seen=(*self._seen, consensus_distance))


@pytest.mark.parametrize(
    "algorithm", [LocalSGD(), Gossip(), Hierarchical(blocks=(2,), rounds=(2,))], ids=repr
)
def test_a_schedule_of_ones_own_observes_what_is_recorded(algorithm: Any) -> None:
    """Every exchange, whatever it leaves behind, as the probe measures it by its own means."""
    p, memory = go(small_run(algorithm=algorithm, H=Telling(), steps=15, lr=0.05), spread=1)
    seen = p.schedule.observed()["seen"]
    assert [row["step_end"] for row in memory.rounds] == [1, 3, 6, 10, 15]
    recorded = dict(memory.values["spread"]) | dict(memory.values.get("before_exchange/spread", []))
    compared = {t: seen[s] for s, t in enumerate((1, 3, 6, 10, 15)) if t in recorded}
    assert len(compared) >= 4 and len(seen) == 5
    for t, value in compared.items():
        assert recorded[t] == pytest.approx(value, rel=1e-9)


def test_a_checkpoint_holds_what_was_observed(tmp_path: Path) -> None:
    """From every second step on a resumed run is the same, bit for bit."""
    schedule = spread_triggered(target=5e-2, at_most=9)
    run, folder = small_run(H=schedule, steps=40), Checkpoints(tmp_path, Simulated(4), keep=1000)
    ends: list[int] = []

    def keep(p: Position) -> None:
        ends.append(p.end)
        folder.save(RankCheckpoint.of(run, p, p.t))

    whole = train(run, run.beginning(), Recorder(run), keep).x
    assert len(set(np.diff(sorted(set(ends))))) > 2
    for t in range(1, 40, 2):
        again = small_run(H=schedule, steps=40)
        state = shard.read(folder.folder_of(t) / "rank-0-of-1.pt")
        check_place(RankCheckpoint.saved(state), again, again.beginning())
        p = RankCheckpoint.saved(state).restore(again, again.beginning())
        later: list[int] = []
        x = train(again, p, Recorder(again), lambda p, later=later: later.append(p.end)).x
        assert later == ends[t:] and torch.equal(x, whole)


def test_the_longest_round_is_a_bound() -> None:
    assert spread_triggered(at_least=3, at_most=50).longest(constant(0.1), 1000) == 50
    assert spread_triggered(at_most=50).longest(constant(0.1), 20) == 20
    assert post_local(switch=900, every=40).longest(constant(0.1), 1000) == 40
    assert every(7).longest(constant(0.1), 3) == 3


def test_whether_rounds_were_parallel_is_remembered_and_not_reckoned() -> None:
    """Also where steps and rounds were counted otherwise: in a run begun from another's mean."""
    run = small_run(algorithm=LocalSGD(), H=1, steps=20, optimizer=adam())
    for parallel in (True, False):
        p = run.beginning()
        p.t = p.begin = p.end = 6
        p.s, p.parallel = (2, True) if parallel else (5, False)
        assert p.next_round(1).now(run, 6).parallel is parallel
        assert p.next_round(2).now(run, 6).parallel is False
        assert p.next_round(2).next_round(1).now(run, 6).parallel is False


def test_doubling_doubles_up_to_its_limit() -> None:
    schedule = doubling(at_least=1, every=100, at_most=8)
    assert [schedule(t, 0.1) for t in (0, 99, 100, 250, 300, 10**9)] == [1, 1, 2, 4, 8, 8]
