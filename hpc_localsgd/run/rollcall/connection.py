"""The end of any other rank: one connection to rank 0."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping

from hpc_localsgd.run.rollcall.hub import LONGEST, keep_alive, send

CONNECT_S = 5.0  # to each address of rank 0
ANSWER_S = 10.0  # from there
ALL_S = 15.0  # to all of them


class Connection:
    """Another rank's end of the connection.

    Attributes:
        gone: {0} when rank 0 is gone.
    """

    def __init__(self, address: Mapping[str, object], rank: int) -> None:
        """Connect to rank 0.

        Args:
            address: What `Hub.address` says; empty if there is none.
            rank: Of this process.

        Raises:
            OSError: At none of its addresses.
        """
        self._address, self._rank, self.gone = address, rank, set[int]()
        self._socket = self._connected()
        self._unread = b""

    def hear(self, timeout_s: float) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that came from rank 0 within some seconds."""
        if self.gone:
            time.sleep(timeout_s)
            return
        try:
            self._socket.settimeout(timeout_s)
            came = self._socket.recv(LONGEST)
        except TimeoutError:
            return
        except OSError:
            came = b""
        *lines, self._unread = (self._unread + came).split(b"\n")
        for line in lines:
            yield 0, line
        if not came:
            self._again()

    def tell(self, line: bytes) -> None:
        """Send one line to rank 0, if it is there."""
        send(self._socket, line)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    abandon = close

    def _again(self) -> None:
        """Connect again: a connection may end while both processes live."""
        self._socket.close()
        self._unread = b""
        try:
            self._socket = self._connected()
        except OSError:
            self.gone = {0}

    def _connected(self) -> socket.socket:
        """Try the addresses of rank 0 in turn."""
        hosts, port = self._address.get("hosts", []), self._address.get("port", 0)
        assert isinstance(hosts, list) and isinstance(port, int)
        here = hosts[:1] == [socket.gethostname()]
        until_s, failed = time.monotonic() + ALL_S, OSError("rank 0 listens nowhere")
        for host in ["127.0.0.1", "::1", *hosts] if here else hosts:
            if time.monotonic() > until_s:
                break
            try:
                return self._greeted(str(host), port)
            except OSError as error:
                failed = error
        raise failed

    def _greeted(self, host: str, port: int) -> socket.socket:
        """Connect to one address, and make sure that it is rank 0 that answers."""
        connection = socket.create_connection((host, port), timeout=CONNECT_S)
        connection.settimeout(ANSWER_S)
        try:
            connection.sendall(f"{self._address['word']} {self._rank}\n".encode())
            expected = f"{self._address['answer']}\n".encode()
            came = b""
            while len(came) < len(expected) and expected.startswith(came):
                came += connection.recv(len(expected) - len(came)) or b"no answer"
            if came != expected:
                raise ConnectionError(f"another program answers at {host}, port {port}")
            keep_alive(connection)
            return connection
        except BaseException:
            connection.close()
            raise
