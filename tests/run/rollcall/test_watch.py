"""When a rank speaks, what it concludes, and whom it ends: turn by turn, on a clock of the test."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from hpc_localsgd.run.rollcall import watch as watches
from hpc_localsgd.run.rollcall.judging import GONE_S
from hpc_localsgd.run.rollcall.own_operations import OwnOperations
from hpc_localsgd.run.rollcall.protocol import SETTLED, At, Note, Verdict, read
from hpc_localsgd.run.rollcall.watch import BEAT_S, LONGEST_TICK_S, RunningClock, Watch
from hpc_localsgd.run.stopping import HUNG

A, B = At(0, "averaged()", 6), At(0, "the end of a round", 6)
OVER = Verdict("all is over", 2, (0, 1))


class Wire:
    """Connections of which the test says what comes, and sees what goes."""

    def __init__(self) -> None:
        self.gone: set[int] = set()
        self.came: list[tuple[int, bytes]] = []
        self.told: list[Note | Verdict] = []
        self.closed = self.abandoned = False

    def hear(self, timeout_s: float) -> Iterator[tuple[int, bytes]]:
        came, self.came = self.came, []
        yield from came

    def tell(self, line: bytes) -> None:
        self.told.append(read(line))

    def close(self) -> None:
        self.closed = True

    def abandon(self) -> None:
        self.abandoned = True


class Steady:
    """A clock that continues by a second a turn."""

    now_s = 0.0

    def tick(self) -> float:
        self.now_s += 1.0
        return self.now_s


class Rank:
    """A watch without its thread."""

    def __init__(self, rank: int, patience_s: float = 100.0) -> None:
        self.own, self.wire, self.ends = OwnOperations(), Wire(), list[int]()
        self.watch = Watch(rank, self.own, patience_s, self.ends.append)
        self.watch.wire = self.wire
        self.watch._clock = Steady()  # type: ignore[assignment]

    def turns(self, n: int) -> None:
        for _ in range(n):
            self.watch.turn()

    def hears(self, rank: int, said: Note | Verdict) -> None:
        self.wire.came.append((rank, said.to_json()))
        self.watch.turn()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> None:
    monkeypatch.setattr(watches.time, "sleep", lambda _: None)


def inside(count: int, at: At = A) -> Note:
    return Note(count, at, True, 2.0)


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


def test_who_waits_is_ended_and_who_does_not_is_let_to_raise(capsys) -> None:
    waits, works, bystander = Rank(1), Rank(1), Rank(2)
    for rank in (waits, bystander):
        rank.own.begin(A)
    for rank in (waits, works, bystander):
        rank.hears(0, OVER)
        assert rank.watch.verdict == OVER and rank.watch.said.is_set()
    assert (waits.ends, works.ends, bystander.ends) == ([2], [], [2])
    assert capsys.readouterr().err == "hpc_localsgd: rank 1: all is over\n"  # rank 0 says it too


def test_who_can_raise_an_exception_is_not_ended() -> None:
    rank = Rank(1)
    rank.own.begin(A)
    rank.watch.explaining = True
    rank.watch.say()
    assert rank.wire.told == [Note(1, A, True, 0.0, gave_up=True)]
    rank.hears(0, OVER)
    assert rank.watch.verdict == OVER and rank.ends == []


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_rank_whose_words_nobody_reads_is_ended_too(stream, monkeypatch, tmp_path) -> None:
    if stream == "closed":
        stream = (tmp_path / "said").open("w")
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    rank = Rank(1)
    rank.own.begin(A)
    rank.hears(0, OVER)
    assert rank.ends == [2]


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


def test_a_rank_whose_rank_0_is_gone_judges_alone(capsys) -> None:
    rank = Rank(1)
    rank.own.begin(A)
    rank.own.end()
    rank.wire.gone = {0}
    rank.turns(50)
    assert rank.watch.verdict is None  # nobody waits for it
    rank.own.begin(B)
    rank.turns(int(GONE_S) + 1)
    assert rank.watch.verdict is None
    rank.turns(2)
    assert rank.ends == [HUNG] and "process of rank 0 has ended" in capsys.readouterr().err


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


def test_a_rank_that_is_busy_or_suspended_is_waited_for_as_long_as_was_allowed() -> None:
    rank = Rank(0, patience_s=1000.0)
    rank.hears(1, Note(0))
    rank.own.begin(A)
    rank.turns(990)  # and not a word of rank 1
    assert rank.watch.verdict is None
    rank.turns(20)
    assert rank.ends == [HUNG]
    assert rank.watch.verdict is not None and "said nothing for 1" in rank.watch.verdict.said


def test_without_connections_only_the_patience_ends_a_wait() -> None:
    rank = Rank(1)
    rank.hears(0, Note(0, ended={0: "is over"}))
    rank.wire.gone, rank.watch.wire = {0}, None
    rank.watch._closed.set()  # a turn waits for nothing
    rank.own.begin(A)
    rank.turns(100)
    assert rank.watch.verdict is None and rank.wire.closed and not rank.wire.told
    rank.turns(5)
    assert rank.ends == [HUNG]


def test_a_process_that_was_suspended_has_waited_for_nobody(monkeypatch) -> None:
    clock = RunningClock()
    began_s = clock._last_s
    for real_s, expected_s in ((1.0, 1.0), (2.5, 2.5), (10_002.5, 2.5 + LONGEST_TICK_S)):
        monkeypatch.setattr(watches.time, "monotonic", lambda real_s=real_s: began_s + real_s)
        assert clock.tick() == pytest.approx(expected_s)


def test_a_fork_is_silent() -> None:
    rank = Rank(1)
    holder = threading.Thread(target=rank.watch._lock.acquire)  # and it is not in the fork
    holder.start()
    holder.join()
    rank.watch.abandon()
    assert rank.watch._lock.acquire(timeout=1.0)
    rank.own.over(0, "is over")
    rank.watch.say()
    assert rank.wire.abandoned and not rank.wire.closed and rank.wire.told == []


def test_the_thread_ends_the_connections() -> None:
    for end in ("closed", "over"):
        rank = Rank(1)
        if end == "closed":
            rank.watch.turn()
            rank.watch.close()
        else:
            rank.wire.came.append((0, OVER.to_json()))
        rank.watch._run()
        assert rank.wire.closed
