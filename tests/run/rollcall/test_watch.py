"""When a rank speaks, and what it concludes: turn by turn, on a clock of the test."""

from __future__ import annotations

import pytest
from turns import OVER, A, B, Rank, inside

from hpc_localsgd.run.rollcall.judging import GONE_S
from hpc_localsgd.run.rollcall.protocol import SETTLED, Note
from hpc_localsgd.run.rollcall.watch import BEAT_S

pytestmark = pytest.mark.usefixtures("no_waiting")


def test_a_step_that_goes_well_says_nothing() -> None:
    rank = Rank(1)
    for _ in range(int(BEAT_S) - 1):
        rank.own.begin(A)
        rank.own.end()
        rank.turns(1)
    assert rank.wire.told == []
    rank.turns(1)
    assert rank.wire.told == [Note(9, A, False)]


def test_a_wait_is_said_once_and_its_end() -> None:
    rank = Rank(1)
    rank.own.begin(A)
    rank.turns(1)
    assert rank.wire.told == []
    rank.turns(4)
    assert rank.wire.told == [Note(1, A, True, 1.0)]
    rank.own.settle()
    rank.own.end()
    rank.turns(2)
    assert rank.wire.told[1:] == [Note(1, SETTLED, False)]
    rank.own.begin(B)
    rank.turns(2)
    assert rank.wire.told[2:] == [Note(2, B, True, 1.0)]
    rank.own.end()
    rank.own.begin(A)
    rank.turns(2)
    assert rank.wire.told[-1] == Note(3, A, True, 0.0)


def test_a_sign_of_life_that_fell_into_a_short_exchange_is_put_right() -> None:
    rank = Rank(1)
    rank.turns(int(BEAT_S) - 1)
    rank.own.begin(A)
    rank.turns(1)
    assert rank.wire.told == [Note(1, A, True, 0.0)]
    rank.own.end()
    rank.turns(1)
    assert rank.wire.told[1:] == [Note(1, A, False)]


def test_rank_0_says_only_what_its_absence_would_hide() -> None:
    rank = Rank(0)
    rank.own.begin(A)
    rank.turns(20)
    assert rank.wire.told == []
    rank.own.over(0, "is over")
    rank.watch.say()
    assert rank.wire.told == [Note(1, A, True, 19.0, ended={0: "is over"})]
    rank.own.leave("has left")
    rank.watch.say()
    assert isinstance(rank.wire.told[1], Note) and rank.wire.told[1].left == "has left"


def test_what_is_concluded_must_hold_a_tick_later() -> None:
    rank = Rank(0)
    rank.own.begin(A)
    rank.turns(2)
    rank.hears(1, inside(1, B))
    assert rank.watch.verdict is None and not rank.watch.said.is_set()
    rank.turns(1)
    assert rank.watch.verdict is not None and rank.watch.said.is_set()
    assert rank.wire.told == [rank.watch.verdict] and "out of step" in rank.watch.verdict.said
    assert rank.ends == [2]


def test_ranks_that_find_out_by_themselves_are_let() -> None:
    rank = Rank(0)
    rank.own.begin(A)
    rank.turns(2)
    rank.hears(1, inside(1, B))
    rank.own.settle()
    rank.turns(5)
    assert rank.watch.verdict is None and rank.ends == []


def test_two_suspicions_of_different_ranks_are_no_conclusion() -> None:
    rank = Rank(0)
    rank.own.begin(A)
    rank.turns(2)
    rank.hears(1, inside(1, B))
    rank.wire.came.append((1, inside(1).to_json()))
    rank.hears(2, inside(1, B))
    assert rank.watch.verdict is None
    rank.turns(1)
    assert rank.watch.verdict is not None and rank.watch.verdict.ranks == (0, 2)


def test_ranks_that_never_wait_are_compared_too() -> None:
    """A library may let two exchanges of the same length meet."""
    rank = Rank(0)
    rank.own.begin(A)
    rank.own.end()
    rank.hears(1, Note(1, B, False))
    rank.turns(2 * int(BEAT_S))
    assert rank.watch.verdict is not None and rank.ends == []  # it raises at its next exchange


def test_only_rank_0_judges_and_only_it_can_say_that_all_is_over() -> None:
    hub, line = Rank(0), Rank(1)
    hub.own.begin(A)
    hub.hears(1, OVER)
    hub.wire.came += [(1, b"garbage"), (1, b"{}")]
    hub.turns(5)
    assert hub.watch.verdict is None
    line.own.begin(A)
    line.hears(0, inside(1, B))
    line.turns(99)
    assert line.watch.verdict is None


def test_rank_0_that_took_its_leave_is_no_loss() -> None:
    rank = Rank(1)
    rank.own.begin(A)
    rank.own.end()
    rank.hears(0, Note(1, A, False, left="has left the program"))
    rank.wire.gone = {0}
    rank.turns(50)
    assert rank.watch.verdict is None
    rank.own.begin(B)
    rank.turns(3)
    assert rank.watch.verdict is not None and "has left the program" in rank.watch.verdict.said


def test_a_connection_that_came_back_is_no_loss() -> None:
    rank = Rank(0)
    rank.own.begin(A)
    rank.hears(1, Note(0))
    for _ in range(9):
        rank.wire.gone = {1}
        rank.turns(int(GONE_S))
        rank.wire.gone = set()
        rank.turns(1)
    assert rank.watch.verdict is None
