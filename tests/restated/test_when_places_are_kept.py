"""When a rank copies and writes its place, by steps and by a clock that the test winds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.errors import NotKept
from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.checkpoint import CheckpointManager, Checkpoints, RankCheckpoint
from hpc_localsgd.run.stopping import StopListener, Stopped
from restated.by_the_loop import Noting, run_of
from restated.problem import Case, Problem


class Written(Checkpoints):
    """Remembers the steps and exchanges of the places it writes; may find the disk full."""

    full = False

    def save(self, place: RankCheckpoint) -> Path:
        if self.full:
            raise OSError("no space")
        self.saved.append((place.t, place.after))
        return super().save(place)

    saved: list[tuple[int, int]]


@dataclass
class Kept:
    """A run whose every step takes `dt` seconds of the keeper's clock."""

    tmp: Path
    lengths: tuple[int, ...]
    dt: float = 0.0
    given: dict[str, Any] = field(default_factory=dict)
    stop_at: int = -1
    asked: str = "SIGUSR2"
    now: float = 100.0
    closed: list[str] = field(default_factory=list)
    flushes: bool = True

    def __post_init__(self) -> None:
        case = Case("", LocalSGD(average="parameters"), lambda p: None)
        problem = Problem(lengths=self.lengths)
        self.run: Run = run_of(case, problem)
        self.checkpoints = Written(self.tmp, self.run.world, keep=1000)
        self.checkpoints.saved, self.stopping = [], StopListener()
        self.copied: list[tuple[int, int]] = []
        self.drained: list[int] = []
        self.keeper = CheckpointManager(
            self.run, self.checkpoints, self.stopping, clock=lambda: self.now, **self.given
        )

    def go(self) -> Kept:
        run = self.run
        p = run.beginning()
        self.keeper.begin(p, self)  # type: ignore[arg-type]
        train(run, p, Noting(run.task), self.step)  # type: ignore[arg-type]
        return self

    def step(self, p: Position) -> None:
        self.now += self.dt
        if p.t == self.stop_at:
            self.stopping.asked = self.asked
        before = [id(c) for c in self.keeper._copies()]
        try:
            self.keeper.between_steps(p)
        finally:
            self.keeper.finish()
            new = [c for c in self.keeper._copies() if id(c) not in before]
            self.copied += [(c.t, c.after) for c in new]

    # What a keeper asks of the recorder.
    gone = ""

    def state(self) -> dict[str, Any]:
        return {}

    def flush(self) -> bool:
        return self.flushes

    def drain(self) -> None:
        self.drained.append(self.keeper.t)

    def close(self, status: str, within_s: float) -> bool:
        self.closed.append(f"{status} {within_s}")
        return self.flushes


def test_by_steps_at_the_first_round_end_after_each_multiple(tmp_path: Path) -> None:
    """Rounds end at 1, 2, 5, 7, 11, 14; multiples of 4 lie before 5, 11 and 14."""
    kept = Kept(tmp_path, (1, 1, 3, 2, 4, 3), given={"steps": 4}).go()
    assert kept.checkpoints.saved == [(5, 5), (11, 11), (14, 14)]
    assert kept.drained == [5, 11, 14]  # so that a shard holds no rows of rounds before it


def test_by_steps_inside_a_round_that_is_longer(tmp_path: Path) -> None:
    """A round from 2 to 12: at 4 and 8 behind the exchange of 2, and where it ends."""
    kept = Kept(tmp_path, (2, 10, 4, 1), given={"steps": 4}).go()
    assert kept.checkpoints.saved == [(4, 2), (8, 2), (12, 12), (16, 16), (17, 17)]


def test_without_a_cadence_only_the_end(tmp_path: Path) -> None:
    kept = Kept(tmp_path, (3, 4, 5), dt=0.001).go()
    assert kept.checkpoints.saved == [(12, 12)]
    assert kept.copied == [(12, 12)]


def test_by_seconds_behind_an_exchange(tmp_path: Path) -> None:
    """Steps of a second, 5 s: all ranks ask rank 0's clock behind every step here."""
    kept = Kept(tmp_path, (1,) * 22, dt=1.0, given={"seconds": 5.0}).go()
    assert kept.checkpoints.saved == [(t, t) for t in (5, 10, 15, 20, 22)]
    assert kept.copied == [(t, t) for t in range(1, 23)]  # in memory, once a second


def test_by_seconds_inside_a_long_round(tmp_path: Path) -> None:
    """No exchange: every rank goes by its own clock, after 1.1 times as long."""
    kept = Kept(tmp_path, (2, 30), dt=1.0, given={"seconds": 5.0}).go()
    assert kept.checkpoints.saved == [(t, 2) for t in (6, 12, 18, 24, 30)] + [(32, 32)]


def test_by_seconds_inside_a_long_round_at_the_first_step_that_has_them(tmp_path: Path) -> None:
    """5.5 s have passed after 11 steps of half a second; and a second may be shorter than one."""
    kept = Kept(tmp_path / "5", (1, 30), dt=0.5, given={"seconds": 5.0}).go()
    assert kept.checkpoints.saved == [(11, 1), (22, 1), (31, 31)]
    kept = Kept(tmp_path / "half", (1, 3), dt=1.0, given={"seconds": 0.5}).go()
    assert kept.checkpoints.saved == [(1, 1), (2, 1), (3, 1), (4, 4)]


def test_at_every_step(tmp_path: Path) -> None:
    kept = Kept(tmp_path, (1, 1, 3), given={"steps": 1}).go()
    assert kept.checkpoints.saved == [(1, 1), (2, 2), (3, 2), (4, 2), (5, 5)]


def test_copies_in_a_long_round_are_every_other_pace(tmp_path: Path) -> None:
    """Paces of a second: in a round without exchanges a rank copies when two have passed."""
    kept = Kept(tmp_path, (1, 20), dt=0.6).go()
    assert kept.copied == [(t, 1) for t in (4, 8, 12, 16, 20)] + [(21, 21)]


def test_the_clock_is_asked_when_a_pace_has_passed(tmp_path: Path) -> None:
    """Steps of an eighth of a second: behind the first exchange, then every eight steps."""
    kept = Kept(tmp_path, (1,) * 45, dt=0.125).go()
    assert kept.copied == [(t, t) for t in (9, 17, 25, 33, 41, 45)]
    assert kept.keeper.mean_step_s() == 0.125


def test_the_time_of_a_step_counts_from_where_this_job_began(tmp_path: Path) -> None:
    kept = Kept(tmp_path, (1,) * 12)
    p = kept.run.beginning()
    p.t = 7  # steps of the jobs before
    kept.keeper.begin(p, kept)  # type: ignore[arg-type]
    assert kept.keeper.mean_step_s() == 0.0
    kept.keeper.t, kept.keeper.passed_s = 9, kept.now + 1.0
    assert kept.keeper.mean_step_s() == 0.5


@pytest.mark.parametrize(("t", "after"), [(4, 2), (5, 5), (11, 5)])
def test_a_stop_writes_the_place_of_that_step(tmp_path: Path, t: int, after: int) -> None:
    kept = Kept(tmp_path, (2, 3, 10), stop_at=t)
    with pytest.raises(Stopped, match=f"stopped on SIGUSR2 after step {t}: resume with .*--resume"):
        kept.go()
    # The newest places first, each of another exchange; those that are alone are not waited for.
    assert kept.checkpoints.saved[0] == (t, after)
    assert kept.closed == ["stopped 8.0"]


def test_who_is_about_to_be_killed_hurries(tmp_path: Path) -> None:
    kept = Kept(tmp_path, (2, 3), stop_at=3, asked="SIGTERM")
    with pytest.raises(Stopped):
        kept.go()
    assert kept.closed == ["stopped 3.0"]


def test_what_was_not_recorded_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept = Kept(tmp_path, (2, 3), stop_at=3, flushes=False)
    with pytest.raises(Stopped):
        kept.go()
    assert "recorded since the last flush is lost" in capfd.readouterr().err


def test_a_request_in_the_last_step_comes_too_late(tmp_path: Path) -> None:
    assert Kept(tmp_path, (2, 3), stop_at=5).go().checkpoints.saved == [(5, 5)]


@pytest.mark.parametrize("stop_at", [3, -1])
def test_a_full_disk_is_told_at_the_stop_and_at_the_end(tmp_path: Path, stop_at: int) -> None:
    kept = Kept(tmp_path, (2, 3), stop_at=stop_at, dt=20.0)
    kept.checkpoints.full = True
    with pytest.raises(NotKept, match="make space"):
        kept.go()


def test_a_resumed_run_asks_behind_the_exchange_after_its_own(tmp_path: Path) -> None:
    """Until then every rank copies by its own clock, when two paces have passed."""
    kept = Kept(tmp_path, (1,) * 12, dt=1.0, given={"after": 7}).go()
    assert kept.copied == [(t, t) for t in (3, 6, 8, 9, 10, 11, 12)]
