"""What a rank notes of its own operations."""

from __future__ import annotations

import tracemalloc

from hpc_localsgd.run.rollcall.own_operations import KEPT, REMEMBERED, OwnOperations
from hpc_localsgd.run.rollcall.protocol import SETTLED, At

A, B = At(0, "a", 1), At(0, "b", 1)


def test_operations_are_numbered_and_one_within_another_is_part_of_it() -> None:
    own = OwnOperations()
    assert not own.moment.inside and not own.nested
    own.begin(A)
    assert own.nested and own.waits and own.moment == (1, A, True)
    own.begin(B)
    assert own.moment == (1, A, True) and not own.waits
    own.end()
    assert own.moment == (1, A, True) and own.waits
    own.end()
    assert own.moment == (1, A, False) and not own.nested and not own.waits
    own.begin(B)
    assert own.moment == (2, B, True)
    assert (own.before(1), own.before(2), own.before(3)) == (A, B, None)


def test_what_is_settled_is_no_wait_any_more() -> None:
    own = OwnOperations()
    own.begin(A)
    own.settle()
    assert own.before(1) == SETTLED == own.moment.at and own.moment.inside and not own.waits
    own.end()
    assert own.moment == (1, SETTLED, False)


def test_the_first_word_of_an_end_counts() -> None:
    own = OwnOperations()
    assert own.over(3, "is over") and not own.over(3, "otherwise")
    assert own.ended == {3: "is over"}
    assert own.leave("by an error") and not own.leave() and own.left == "by an error"


def test_a_long_run_of_many_runs_takes_no_more_memory() -> None:
    own = OwnOperations()

    def go_on(operations: int) -> None:
        for _ in range(operations):
            own.begin(At(0, "a", own.moment.number))
            own.end()
            own.over(own.moment.number, "is over")

    go_on(REMEMBERED + 5)
    tracemalloc.start()
    try:
        go_on(10 * REMEMBERED)
        before = tracemalloc.get_traced_memory()[0]
        go_on(10 * REMEMBERED)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()  # it would slow down all tests that follow
    assert grown < 50_000
    last = own.moment.number
    assert list(own.ended) == list(range(last - KEPT + 1, last + 1))
    assert own.before(last - REMEMBERED) is None and own.before(last) == At(0, "a", last - 1)
