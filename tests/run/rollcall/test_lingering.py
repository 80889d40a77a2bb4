"""A process at its end stays while others may wait for it in a library that it would take away."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from turns import OVER, Rank

sys.path.insert(0, str(Path(__file__).parents[2] / "attach"))

from rank_threads import Meeting, ThreadWorld

from hpc_localsgd.run.rollcall import call, of_world
from hpc_localsgd.run.rollcall import watch as watches
from hpc_localsgd.run.rollcall.protocol import LEFT, Note


def naps(rank: Rank, monkeypatch: pytest.MonkeyPatch, third: Callable[[], object]) -> int:
    """How often a rank of three sleeps before it ends; `third` happens in the third sleep."""
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            third()

    monkeypatch.setattr(watches.time, "sleep", sleep)
    rank.watch.linger(3, 1000.0)
    return len(slept)


def test_rank_0_stays_until_all_others_have_left_or_are_gone(monkeypatch) -> None:
    rank = Rank(0)
    rank.wire.gone = {2}
    assert naps(rank, monkeypatch, lambda: rank.hears(1, Note(left=LEFT))) == 3


def test_another_rank_stays_until_rank_0_is_gone(monkeypatch) -> None:
    rank = Rank(1)
    assert naps(rank, monkeypatch, lambda: rank.wire.gone.add(0)) == 3


def test_after_a_verdict_it_stays_while_those_end_that_wait(monkeypatch) -> None:
    rank = Rank(1)
    assert naps(rank, monkeypatch, lambda: rank.hears(0, OVER)) == 4


def test_without_connections_it_does_not_stay(monkeypatch) -> None:
    rank = Rank(1)
    rank.watch.wire = None
    assert naps(rank, monkeypatch, lambda: None) == 0


@pytest.mark.parametrize(
    ("ends_for_all", "finished", "stays"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_only_with_a_run_that_is_not_over_and_such_a_library(
    ends_for_all: bool, finished: bool, stays: bool, monkeypatch
) -> None:
    world = ThreadWorld(Meeting(1), 0)
    world.ends_for_all = ends_for_all
    found = of_world(world)
    rank = Rank(0)
    found._watch, lingered = rank.watch, []
    monkeypatch.setattr(rank.watch, "linger", lambda n, within_s: lingered.append(within_s))
    number = found.number()
    if finished:
        found.ended(number)
    call._leave_all()
    assert any(lingered) is stays and rank.watch._closed.is_set()
