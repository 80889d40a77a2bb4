"""A hub that listens in a thread, and raw connections to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hpc_localsgd.run.rollcall.hub import Hub

LONG_S = 20.0  # far beyond what anything here takes


class Listening:
    """What a hub heard so far."""

    def __init__(self, hub: Hub) -> None:
        self.hub, self.heard = hub, list[tuple[int, bytes]]()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            self.heard += self.hub.hear(0.05)


@contextmanager
def listening(n: int = 4) -> Iterator[Listening]:
    hub = Hub(n)
    found = Listening(hub)
    thread = threading.Thread(target=found.run)
    thread.start()
    try:
        yield found
    finally:
        found.ended.set()
        thread.join()
        hub.close()


def until(claim: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LONG_S
    while not claim():
        if time.monotonic() > end:
            pytest.fail(f"still not: {what}")
        time.sleep(0.01)


def called(hub: Hub) -> socket.socket:
    """A connection to a hub that has said nothing yet."""
    port = hub.address["port"]
    assert isinstance(port, int)
    return socket.create_connection(("127.0.0.1", port), timeout=LONG_S)


def ends(connection: socket.socket) -> bool:
    """Whether the other side ends a connection, without a word."""
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True
