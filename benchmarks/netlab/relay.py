"""Delay without netem: carries frames between pairs of TAP devices, one process for all of them.

    python relay.py NEAR FAR DELAY_S [NEAR FAR DELAY_S ...]

makes the devices in the namespace it is started in, says `ready`, and carries until its standard
input ends. Frames from NEAR to FAR are held for DELAY_S, the others go at once. It costs a core
where much is sent, which the ranks then lack: a network with it is labelled so. Loads only the
standard library.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field

_TUNSETIFF, _TAP, _NO_HEADER = 0x400454CA, 0x0002, 0x1000
_FRAME_BYTES = 66_000
_AT_ONCE = 32  # frames taken from one device before the others are looked at
_SPIN_S = 2e-4  # waits shorter than this are not slept: a sleep would be longer


@dataclass
class Way:
    """From one device to the other; frames leave in the order they came."""

    source: int
    target: int
    delay_s: float
    held: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self, now: float) -> None:
        """Read what has come."""
        for _ in range(_AT_ONCE):
            try:
                self.held.append((now + self.delay_s, os.read(self.source, _FRAME_BYTES)))
            except BlockingIOError:
                return

    def give(self, now: float) -> float:
        """Write what is due; return when the next one is."""
        while self.held and self.held[0][0] <= now:
            try:
                os.write(self.target, self.held.popleft()[1])
            except OSError:  # full, or down: a frame is lost, as on a cable
                pass
        return self.held[0][0] if self.held else float("inf")


def tap(name: str) -> int:
    """Make a TAP device and return its descriptor."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _TAP | _NO_HEADER))
    return device


def carry(ways: list[Way], end: int) -> None:
    """Carry frames until `end` is readable."""
    epoll = select.epoll()
    by_source = {way.source: way for way in ways}
    for source in (*by_source, end):
        epoll.register(source, select.EPOLLIN)
    while True:
        due = min(way.give(time.monotonic()) for way in ways)
        wait = min(due - time.monotonic(), 1.0)
        for source, _ in epoll.poll(wait - 1e-4 if wait > _SPIN_S else 0):
            if source == end:
                return
            by_source[source].take(time.monotonic())


def main() -> None:
    """Make the devices and carry."""
    words, ways = sys.argv[1:], []
    for near, far, delay in zip(words[::3], words[1::3], words[2::3], strict=True):
        here, there = tap(near), tap(far)
        ways += [Way(here, there, float(delay)), Way(there, here, 0.0)]
    print("ready", flush=True)
    carry(ways, sys.stdin.fileno())


if __name__ == "__main__":
    main()
