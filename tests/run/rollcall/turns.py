"""A rank that watches turn by turn, on a clock and connections of the test."""

from __future__ import annotations

from collections.abc import Iterator

from hpc_localsgd.run.rollcall.own_operations import OwnOperations
from hpc_localsgd.run.rollcall.protocol import At, Note, Verdict, read
from hpc_localsgd.run.rollcall.watch import Watch

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


def inside(count: int, at: At = A) -> Note:
    return Note(count, at, True, 2.0)
