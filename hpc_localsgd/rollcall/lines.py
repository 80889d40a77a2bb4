"""Lines of text between rank 0 and every other rank, over TCP and beside all exchanges.

Rank 0 listens on a port that the system chose; address and a random word travel through the world
that the ranks have in common, and who cannot say the word is not listened to. Standard library
only, so that the side channel owes nothing to MPI, Horovod or torch.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import time
from collections.abc import Iterator

CONNECT_S = 5.0  # to each address of rank 0
LONGEST = 1 << 16  # bytes of a line; whoever sends longer ones is none of ours


class Hub:
    """Rank 0's end.

    Attributes:
        gone: Rank -> when its connection ended, on the monotonic clock.
    """

    def __init__(self) -> None:
        self._listener = _listen()
        self._word = secrets.token_hex(16)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._unread: dict[socket.socket, bytes] = {self._listener: b""}
        self._ranks: dict[int, socket.socket] = {}
        self.gone: dict[int, float] = {}

    @property
    def address(self) -> dict[str, object]:
        """What the other ranks must know."""
        name = socket.gethostname()
        return {
            "hosts": [name, *_numeric(name)],
            "port": self._listener.getsockname()[1],
            "word": self._word,
        }

    def hear(self, timeout_s: float) -> Iterator[tuple[int, bytes]]:
        """Lines that came, with the rank that sent them; waits for the first one."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, socket.socket):
                yield from self._read(key.fileobj)

    def tell(self, line: bytes) -> None:
        """One line to all ranks."""
        for connection in list(self._ranks.values()):
            try:
                connection.sendall(line + b"\n")
            except OSError:  # it has ended; `hear` will notice
                pass

    def close(self) -> None:
        """End all connections."""
        for connection in self._unread:
            connection.close()
        self._selector.close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(CONNECT_S)
        self._unread[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> Iterator[tuple[int, bytes]]:
        came = _receive(connection)
        *lines, rest = (self._unread[connection] + came).split(b"\n")
        self._unread[connection] = rest
        for line in lines:
            rank = self._rank_of(connection)
            if rank is not None:
                yield rank, line
            elif not self._greet(connection, line):
                came = b""
        if not came or len(rest) > LONGEST:
            self._forget(connection)

    def _greet(self, connection: socket.socket, line: bytes) -> bool:
        word, _, rank = line.decode(errors="replace").partition(" ")
        if not (secrets.compare_digest(word.encode(), self._word.encode()) and rank.isdecimal()):
            return False
        self._ranks[int(rank)] = connection
        return True

    def _rank_of(self, connection: socket.socket) -> int | None:
        return next((r for r, known in self._ranks.items() if known is connection), None)

    def _forget(self, connection: socket.socket) -> None:
        rank = self._rank_of(connection)
        if rank is not None:
            del self._ranks[rank]
            self.gone[rank] = time.monotonic()
        self._selector.unregister(connection)
        del self._unread[connection]
        connection.close()


class Line:
    """Another rank's end."""

    def __init__(self, address: dict[str, object], rank: int) -> None:
        """Connect to rank 0.

        Raises:
            OSError: At none of its addresses.
        """
        hosts, port = address["hosts"], address["port"]
        assert isinstance(hosts, list) and isinstance(port, int)
        here = hosts[0] == socket.gethostname()
        self._socket = _connect(["127.0.0.1", *hosts] if here else hosts, port)
        self._unread = b""
        self.tell(f"{address['word']} {rank}".encode())

    def hear(self, timeout_s: float) -> list[bytes] | None:
        """Lines that came within some seconds; None if rank 0 has ended."""
        self._socket.settimeout(timeout_s)
        try:
            came = self._socket.recv(4096)
        except TimeoutError:
            return []
        except OSError:
            came = b""
        if not came:
            return None
        *lines, self._unread = (self._unread + came).split(b"\n")
        return lines

    def tell(self, line: bytes) -> None:
        """One line to rank 0, if it is there."""
        try:
            self._socket.sendall(line + b"\n")
        except OSError:  # `hear` will notice
            pass

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


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
    """The addresses of a host, for machines that do not know its name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:4]


def _connect(hosts: list[str], port: int) -> socket.socket:
    failed: OSError | None = None
    for host in hosts:
        try:
            return socket.create_connection((host, port), timeout=CONNECT_S)
        except OSError as error:
            failed = error
    raise failed or OSError("rank 0 named no address")


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""
