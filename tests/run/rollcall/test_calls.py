"""The begin and the end of a roll call, on ranks that are threads with real connections."""

from __future__ import annotations

import gc
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wires import LONG_S, listening, until

sys.path.insert(0, str(Path(__file__).parents[2] / "attach"))

from rank_threads import Meeting, ThreadWorld, on_ranks

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.rollcall import RollCall, call, connection, judging, leave, of_world, watch
from hpc_localsgd.run.rollcall.connection import Connection
from hpc_localsgd.run.rollcall.protocol import LEFT, At, Verdict, failed

A = At(0, "averaged()", 6)
OVER = Verdict("all is over", 2, (0, 1))


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(watch, "TICK_S", 0.02)
    monkeypatch.setattr(watch, "WAITS_S", 0.01)
    monkeypatch.setattr(judging, "GONE_S", 0.1)
    yield
    call._leave_all()


def met(n: int, work: Callable[[ThreadWorld, RollCall], object], patience_s: float = 60.0) -> list:
    """What `work` gives on n ranks that have met."""

    def rank(world: ThreadWorld) -> object:
        try:
            return work(world, of_world(world, patience_s))
        finally:
            leave(world)

    return on_ranks(n, rank)


def wire_of(found: RollCall) -> object:
    assert found._watch is not None
    return found._watch.wire


def test_ranks_that_meet_are_connected_and_share_one_call() -> None:
    def work(world: ThreadWorld, found: RollCall) -> object:
        assert of_world(world, 7.0) is found and found._watch is not None
        assert found._watch.patience_s == 7.0
        assert (found.number(), found.number()) == (0, 1)
        world.transport.meeting.barrier.wait()
        return type(wire_of(found)).__name__

    assert met(3, work) == ["Hub", "Connection", "Connection"]


def test_rank_0_answers_those_that_connect_before_its_next_look(monkeypatch) -> None:
    """Its thread has the connections before it first waits; else they would give up."""
    monkeypatch.setattr(watch, "TICK_S", 60.0)
    monkeypatch.setattr(connection, "ALL_S", connection.ANSWER_S)

    def work(world: ThreadWorld, found: RollCall) -> object:
        return type(wire_of(found)).__name__

    assert met(2, work) == ["Hub", "Connection"]


def test_one_rank_alone_has_no_thread() -> None:
    before = threading.active_count()
    found = of_world(ThreadWorld(Meeting(1), 0))
    assert found._watch is None and threading.active_count() == before
    with found.at(0, "averaged()", 6):
        pass
    found.ended(0)
    found.leave()


@pytest.mark.parametrize("fault", ["a firewall", "no port"])
def test_ranks_out_of_reach_are_said_once_and_all_go_on(fault: str, monkeypatch) -> None:
    def refused(*_: object) -> Connection:
        raise OSError(fault)

    def one_of_two(address: dict[str, object], rank: int) -> Connection:
        return refused() if rank == 2 else Connection(address, rank)

    if fault == "no port":
        monkeypatch.setattr(call, "Hub", type("Hub", (), {"__init__": refused}))
    else:
        monkeypatch.setattr(call, "Connection", one_of_two)
    ticks = threading.Barrier(3, timeout=LONG_S)

    def work(world: ThreadWorld, found: RollCall) -> object:
        assert wire_of(found) is None and found._watch is not None
        for _ in range(2):  # long enough for whatever would be concluded of an end
            with found.at(0, "averaged()", 6):
                ticks.wait()
                if world.rank == 0:
                    until(lambda: found._watch._clock.now_s > 0.5, "half a second")  # type: ignore[union-attr]
                ticks.wait()
        return found._watch.verdict

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert met(3, work) == [None, None, None]
    about = [str(w.message) for w in said if "cannot reach rank 0 by TCP" in str(w.message)]
    assert len(about) == 1 and "patience_s=60" in about[0]
    assert ("rank 2" in about[0] and "port" in about[0]) or "it cannot listen" in about[0]


def test_hosts_whose_names_are_too_long_to_tell_go_without(monkeypatch) -> None:
    monkeypatch.setattr(call, "ADDRESS_BYTES", 20)
    with pytest.warns(UserWarning, match="it cannot listen"):
        assert met(2, lambda _, found: wire_of(found)) == [None, None]


def test_two_jobs_on_a_host_do_not_hear_each_other() -> None:
    def work(world: ThreadWorld, found: RollCall) -> object:
        other = of_world(ThreadWorld(second, world.rank))
        assert other is not found
        if world.rank == 1:
            other.leave()  # the one job ends
        with found.at(0, "averaged()", 6):
            world.transport.meeting.barrier.wait()
        other.leave()
        return found._watch and found._watch.verdict

    second = Meeting(2)
    assert met(2, work) == [None, None]


def test_a_call_that_could_not_begin_is_none(monkeypatch) -> None:
    def no_exchange(*_: object) -> object:
        raise RuntimeError("the library says no")

    monkeypatch.setattr(ThreadWorld, "gather", no_exchange)
    world = ThreadWorld(Meeting(2), 0)
    monkeypatch.setattr(call, "EXPLAIN_S", 0.0)
    with pytest.raises(RuntimeError, match="the library says no"):
        of_world(world)
    assert world.rank_group not in call._calls


class Alone:
    """A rank of two that meets nobody, and whose end is noted."""

    rank_group = object.__new__(type("RankGroup", (), {}))

    def __init__(self) -> None:
        self.rank, self.n, self.ends = 0, 2, list[int]()

    def end(self, status: int) -> None:
        self.ends.append(status)


def alone() -> tuple[Alone, RollCall]:
    world = Alone()
    return world, RollCall(world, 60.0)  # type: ignore[arg-type]


def test_a_world_made_later_is_ended_when_the_first_is_no_more() -> None:
    first, found = alone()
    second = Alone()
    found.join(second, 7.0)  # type: ignore[arg-type]
    assert found._watch is not None and found._watch.patience_s == 7.0
    del first
    gc.collect()
    found.begin(A)
    found._watch._conclude(OVER)
    assert second.ends == [2]


@pytest.mark.parametrize(("status", "kind"), [(2, ConfigurationError), (86, RuntimeError)])
def test_after_a_verdict_no_operation_begins(status: int, kind: type[Exception]) -> None:
    world, found = alone()
    assert found._watch is not None
    found._watch._conclude(Verdict("all is over", status, (0, 1)))
    for _ in range(2):
        with pytest.raises(kind, match="all is over"), found.at(0, "averaged()", 6):
            pytest.fail("it began")
    assert not found._own.nested and world.ends == []


def test_an_operation_within_another_is_left_to_end_first() -> None:
    _, found = alone()
    assert found._watch is not None
    with found.at(0, "the end of a round", 6):
        found._watch.verdict = OVER
        with found.at(0, "averaged()", 6):
            pass


def explained(error: BaseException, settled: bool = False, verdict: bool = True) -> BaseException:
    """What comes out of an operation in which an error was raised, with a verdict on its way."""
    _, found = alone()
    assert found._watch is not None
    found._watch.wire = type("Wire", (), {"tell": lambda *_: None, "gone": set()})()
    said = found._watch.say

    def say() -> None:
        said()
        assert found._watch is not None and found._watch.explaining
        if verdict:
            found._watch._conclude(OVER)

    found._watch.say = say  # type: ignore[method-assign]
    with pytest.raises(type(error) if settled else BaseException) as raised, found.at(0, "a", 1):  # noqa: PT012
        if settled:
            found.settle()
        raise error
    assert not found._own.moment.inside and not found._watch.explaining
    return raised.value


def test_an_error_of_a_library_is_explained_by_what_lies_behind_it(monkeypatch) -> None:
    monkeypatch.setattr(call, "EXPLAIN_S", 0.0)
    gave_up = RuntimeError("Connection closed by peer")
    found = explained(gave_up)
    assert isinstance(found, ConfigurationError) and found.__cause__ is gave_up
    assert str(found) == "all is over"
    assert explained(gave_up, verdict=False) is gave_up
    for other in (RuntimeError("the parameters are not finite"), ValueError("odd")):
        assert explained(other, settled=True) is other
    for other in (KeyboardInterrupt(), ValueError("odd")):
        assert explained(other) is other


def test_without_connections_no_explanation_is_waited_for(monkeypatch) -> None:
    _, found = alone()
    assert found._watch is not None
    monkeypatch.setattr(found._watch.said, "wait", lambda *_: pytest.fail("it waits"))
    with pytest.raises(RuntimeError, match="gave up"), found.at(0, "a", 1):
        raise RuntimeError("gave up")


@pytest.mark.parametrize("error", [None, ZeroDivisionError("odd")])
def test_the_end_of_the_interpreter_is_said_with_its_reason(error, monkeypatch) -> None:
    if error is None:
        monkeypatch.delattr(sys, "last_value", raising=False)
    else:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
    expected = failed(error) if error else LEFT
    all_said = threading.Barrier(2, timeout=LONG_S)

    def work(world: ThreadWorld, found: RollCall) -> object:
        all_said.wait()
        if world.rank == 1:
            call._leave_all()  # both are of this process: the first word counts
        heard = found._watch._heard if found._watch else {}
        until(lambda: any(n.left for n, _ in heard.values()) or found._own.left, "a word")
        all_said.wait()
        return [n.left for n, _ in heard.values() if n.left] or [found._own.left]

    assert met(2, work) == [[expected], [expected]]


def test_a_world_that_is_given_up_takes_its_leave() -> None:
    kept = ThreadWorld(Meeting(1), 0)
    one = of_world(kept)
    assert one._own.left == ""
    del kept
    gc.collect()
    assert one._own.left == LEFT


def test_a_fork_neither_answers_nor_holds_the_connections() -> None:
    """As a loader's worker, which may live longer than its rank."""
    with listening() as here:
        world, found = alone()
        assert found._watch is not None
        found._watch.wire = line = Connection(here.hub.address, 1)
        call._calls[world.rank_group] = found
        wake, born = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.close(wake[1])
            found.ended(0)
            os.write(born[1], b"x")
            os.read(wake[0], 1)
            os._exit(0)
        try:
            os.read(born[0], 1)
            line.tell(b"me")
            until(lambda: here.heard, "the rank")
            line.close()
            until(lambda: here.hub.gone == {1}, "that the rank has gone, its child notwithstanding")
            assert here.heard == [(1, b"me")]
        finally:
            os.write(wake[1], b"x")
            os.waitpid(child, 0)
            for end in (*wake, *born):
                os.close(end)
