"""Whom a watch ends, and for how long it waits before."""

from __future__ import annotations

import sys
import threading

import pytest
from turns import OVER, A, B, Rank

from hpc_localsgd.run.rollcall import watch as watches
from hpc_localsgd.run.rollcall.judging import GONE_S
from hpc_localsgd.run.rollcall.protocol import FAILED, LEFT, Note
from hpc_localsgd.run.rollcall.watch import LONGEST_TICK_S, RunningClock
from hpc_localsgd.run.stopping import HUNG

pytestmark = pytest.mark.usefixtures("no_waiting")


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


@pytest.mark.parametrize(("how", "status"), [(LEFT, 2), (f"{FAILED} (E: x)", HUNG)])
def test_a_rank_whose_rank_0_has_left_judges_alone(how: str, status: int, capsys) -> None:
    """Its process lives on, and waits for all others in MPI_Finalize."""
    rank = Rank(1)
    rank.own.begin(A)
    rank.hears(0, Note(0, left=how))
    rank.turns(2)
    assert rank.ends == [status]
    assert f"rank 0 {how}, " in capsys.readouterr().err


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
    for end in ("closed", "closed before a turn", "over"):
        rank = Rank(1)
        if end == "closed":
            rank.watch.turn()
        if end != "over":
            rank.watch.close()
        else:
            rank.wire.came.append((0, OVER.to_json()))
        rank.watch._run()
        assert rank.wire.closed
