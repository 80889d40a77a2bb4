"""What it costs to notice ranks that miss each other: a meeting of `attach`, and the thread beside.

    python benchmarks/roll_call.py

One process, no launcher; CPU time, which others on the machine disturb least. A step between two
syncs has no meeting, one that ends a round has one, and a step of a round of one step has two. The
thread of rank 0 is loaded as by ranks that all wait, each of which says so once a second.
"""

from __future__ import annotations

import argparse
import statistics
import time
import timeit
from dataclasses import dataclass
from threading import Event, Thread

from reporting import write_report

from hpc_localsgd.run.rollcall import RollCall
from hpc_localsgd.run.rollcall.connection import Connection
from hpc_localsgd.run.rollcall.hub import Hub
from hpc_localsgd.run.rollcall.own_operations import OwnOperations
from hpc_localsgd.run.rollcall.protocol import At, Note
from hpc_localsgd.run.rollcall.watch import Watch

AT = At(0, "the exchange of gradients", 6)
TURNS = 10


@dataclass(eq=False)
class Rank:
    """What a roll call must know of a world."""

    rank: int = 0
    n: int = 2

    def end(self, status: int) -> None:
        """Nobody is ended here."""


def meeting_us(repeat: int) -> list[float]:
    """CPU microseconds that one meeting adds to a step, in each of some repetitions."""
    call, number = RollCall(Rank(), 3600.0), 10_000  # type: ignore[arg-type]

    def meet() -> None:
        with call.at(0, "the exchange of gradients", 6):
            pass

    seconds = timeit.repeat(meet, number=number, repeat=repeat, timer=time.thread_time)
    return [s / number * 1e6 for s in seconds]


def turn_ms(n: int) -> list[float]:
    """CPU milliseconds of a turn of rank 0's thread; n ranks have just said that they wait."""
    hub = Hub(n)
    own = OwnOperations()
    own.begin(AT)
    watch = Watch(0, own, 3600.0, print)
    watch.wire, found = hub, []
    lines = [_joined(hub, rank) for rank in range(1, n)]
    for turn in range(TURNS):
        for line in lines:
            line.tell(Note(1, AT, True, float(turn)).to_json())
        began = time.thread_time()
        watch.turn()
        found.append((time.thread_time() - began) * 1000)
    for end in (*lines, hub):
        end.close()
    assert watch.verdict is None
    return found


def _joined(hub: Hub, rank: int) -> Connection:
    """Connect a rank, whose greeting the hub answers in another thread."""
    joined = Event()

    def answer() -> None:
        while not joined.is_set():
            list(hub.hear(0.01))

    thread = Thread(target=answer)
    thread.start()
    line = Connection(hub.address, rank)
    joined.set()
    thread.join()
    return line


def main() -> None:
    """Measure both and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 64, 1000])
    options = parser.parse_args()
    meeting = sorted(meeting_us(options.repeat))
    turns = {n: statistics.median(turn_ms(n)) for n in options.ranks}
    lines = ["# The roll call", "", "| | |", "|---|--:|"]
    lines += [f"| a meeting, on the rank's own thread | {statistics.median(meeting):.1f} us |"]
    lines += [f"| the fastest of {len(meeting)} repetitions | {meeting[0]:.1f} us |"]
    lines += [
        f"| a second of rank 0's thread, {n} ranks wait | {ms:.1f} ms |" for n, ms in turns.items()
    ]
    data = {"meeting_us": meeting, "turn_ms": {str(n): ms for n, ms in turns.items()}}
    write_report("roll_call", "\n".join(lines), data)


if __name__ == "__main__":
    main()
