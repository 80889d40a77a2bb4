"""A host that computes slowly: `brake.py FACTOR` lets its processes run 1 / FACTOR of the time.

It stops what runs in its own network, and lets it go on, fifty times a second, for as long as the
lab lives. Loads only the standard library.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PERIOD_S = 0.02


def others() -> Iterator[int]:
    """Yield the processes of this host, without those that were here before any was started."""
    mine = os.readlink("/proc/self/ns/net")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            # A launcher's parent outside (0) would take its stop for a person's.
            outside = entry.joinpath("stat").read_text().rpartition(")")[2].split()[1] == "0"
            if not outside and os.readlink(entry / "ns" / "net") == mine:
                yield int(entry.name)


def send(number: int, pids: list[int]) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def main() -> None:
    """Stop them and let them go on, again and again."""
    stopped_s = PERIOD_S * (1 - 1 / float(sys.argv[1]))
    print("ready", flush=True)
    while True:
        pids = list(others())
        send(signal.SIGSTOP, pids)
        time.sleep(stopped_s)
        send(signal.SIGCONT, pids)
        time.sleep(PERIOD_S - stopped_s)


if __name__ == "__main__":
    main()
