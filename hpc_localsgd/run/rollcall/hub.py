"""Rank 0's end of the connections: lines of text over TCP, beside all exchanges.

Rank 0 listens on a port that the system chose; address and two random words travel through the
world that the ranks have in common. Who cannot say the one is not listened to, and who cannot say
the other is not rank 0. Standard library only, so that the side channel owes nothing to MPI,
Horovod or torch. One connection a rank: a thousand ranks are a thousand files open in rank 0's
process, for which its limit is raised.
"""

from __future__ import annotations

import resource
import secrets
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

LONGEST = 1 << 16  # bytes of a line; no rank sends longer ones
GREETING = 256  # bytes of the first line
STRANGER_S = 10.0  # for a connection to say who it is
STRANGERS = 64  # connections, beyond one a rank, that have not said it yet
SEND_S = 5.0
RESTS_S = 0.1  # after a connection that could not be taken: no files left, say
UNREACHABLE_S = 300  # until a host that answers nothing counts as gone
ADDRESS_BYTES = 600


@dataclass
class _Peer:
    """A connection: its rank, once known, and the beginning of its next line."""

    since_s: float
    rank: int | None = None
    unread: bytes = b""


class Hub:
    """Rank 0's end of the connections.

    Attributes:
        gone: Ranks whose connection has ended.
    """

    def __init__(self, n: int) -> None:
        """Listen, for n - 1 ranks.

        Raises:
            OSError: This host allows no listening socket.
        """
        _make_room(n)
        self.gone: set[int] = set()
        self._n = n
        self._listener = _listen()
        self._listener.setblocking(False)
        self._word, self._answer = secrets.token_hex(16), secrets.token_hex(16)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, _Peer] = {}
        self._ranks: dict[int, socket.socket] = {}

    @property
    def address(self) -> dict[str, object]:
        """Address that the other ranks must know."""
        name = socket.gethostname()
        return {
            "hosts": [name, *_numeric(name)],
            "port": self._listener.getsockname()[1],
            "word": self._word,
            "answer": self._answer,
        }

    def hear(self, timeout_s: float) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that came, with the rank that sent them; wait for the first one."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._peers:
                yield from self._read(key.fileobj)
        self._dismiss(time.monotonic() - STRANGER_S)

    def tell(self, line: bytes) -> None:
        """Send one line to all ranks."""
        for connection in list(self._ranks.values()):
            send(connection, line)

    def close(self) -> None:
        """End all connections."""
        self._selector.close()
        self.abandon()

    def abandon(self) -> None:
        """Close the connections in this process alone, a fork: the selector is its parent's."""
        for connection in (self._listener, *list(self._peers)):
            connection.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:  # it went away again
            return
        except OSError:
            time.sleep(RESTS_S)
            return
        connection.settimeout(SEND_S)
        keep_alive(connection)
        self._peers[connection] = _Peer(time.monotonic())
        self._selector.register(connection, selectors.EVENT_READ)
        strangers = [c for c, peer in self._peers.items() if peer.rank is None]
        for oldest in strangers[: -(self._n + STRANGERS)]:
            self._forget(oldest)

    def _dismiss(self, before_s: float) -> None:
        """Close the connections that have not identified themselves in time."""
        for connection, peer in list(self._peers.items()):
            if peer.rank is None and peer.since_s < before_s:
                self._forget(connection)

    def _read(self, connection: socket.socket) -> Iterator[tuple[int, bytes]]:
        peer = self._peers[connection]
        came = _receive(connection)
        *lines, peer.unread = (peer.unread + came).split(b"\n")
        for line in lines:
            if peer.rank is not None:
                yield peer.rank, line
            elif not self._greet(connection, peer, line):
                came = b""
                break
        if not came or len(peer.unread) > (GREETING if peer.rank is None else LONGEST):
            self._forget(connection)

    def _greet(self, connection: socket.socket, peer: _Peer, line: bytes) -> bool:
        """Accept a rank that sends the right word, in place of its earlier connection if any."""
        word, _, rank = line.partition(b" ")
        known = secrets.compare_digest(word, self._word.encode())
        if not (known and rank.isdigit() and len(rank) < 10 and 0 < int(rank) < self._n):
            return False
        peer.rank = int(rank)
        before = self._ranks.pop(peer.rank, None)
        if before is not None:
            self._forget(before)
        self._ranks[peer.rank] = connection
        self.gone.discard(peer.rank)
        send(connection, self._answer.encode())
        return True

    def _forget(self, connection: socket.socket) -> None:
        rank = self._peers.pop(connection).rank
        if rank is not None and self._ranks.get(rank) is connection:
            del self._ranks[rank]
            self.gone.add(rank)
        self._selector.unregister(connection)
        connection.close()


def send(connection: socket.socket, line: bytes) -> None:
    """Send a line; if it cannot be sent whole, end the connection, which its reader notices."""
    try:
        connection.sendall(line + b"\n")
    except OSError:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def keep_alive(connection: socket.socket) -> None:
    """Let the kernels detect that a host is gone; they answer for a process that is busy."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    settings = {
        "TCP_KEEPIDLE": UNREACHABLE_S // 5,
        "TCP_KEEPINTVL": UNREACHABLE_S // 10,
        "TCP_KEEPCNT": 8,
        "TCP_USER_TIMEOUT": UNREACHABLE_S * 1000,
    }
    for name, value in settings.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", 0), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
            )
        except OSError:  # built with it, and switched off on this machine
            pass
    return socket.create_server(("", 0), backlog=1024)


def _numeric(host: str) -> list[str]:
    """Return the addresses of a host, for machines that cannot resolve its name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:4]


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(LONGEST)
    except OSError:
        return b""


def _make_room(n: int) -> None:
    """Raise the limit of open files by n, if allowed: the program needs its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if n > STRANGERS and soft != resource.RLIM_INFINITY:
        most = soft + n if hard == resource.RLIM_INFINITY else min(soft + n, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
