"""The connections between rank 0 and the others, and strangers who connect."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from wires import LONG_S, called, ends, listening, until

from hpc_localsgd.run.rollcall import connection as lines
from hpc_localsgd.run.rollcall import hub as hubs
from hpc_localsgd.run.rollcall.connection import Connection
from hpc_localsgd.run.rollcall.hub import GREETING, LONGEST, STRANGERS, Hub


def heard(line: Connection) -> list[bytes]:
    """What a line hears until something comes."""
    found: list[bytes] = []
    until(lambda: found.extend(said for _, said in line.hear(0.05)) or found, "a word of rank 0")
    return found


def test_every_rank_is_heard_under_its_number_and_told() -> None:
    with listening() as here:
        ranks = {rank: Connection(here.hub.address, rank) for rank in (1, 2, 3)}
        for rank, line in ranks.items():
            line.tell(b"I am %d" % rank)
            line.tell(b"and go on")
        until(lambda: len(here.heard) == 6, "six lines")
        assert sorted(here.heard) == sorted(
            [(r, b"I am %d" % r) for r in ranks] + [(r, b"and go on") for r in ranks]
        )
        here.hub.tell(b"to all")
        assert [heard(line) for line in ranks.values()] == [[b"to all"]] * 3
        ranks[2].close()
        until(lambda: here.hub.gone == {2}, "that rank 2 has gone")
        for line in ranks.values():
            line.close()


def test_a_line_may_come_in_pieces() -> None:
    with listening() as here, called(here.hub) as raw:
        for part in (f"{here.hub.address['word']}".encode(), b" 1\nhel", b"lo\nag", b"ain\n"):
            raw.sendall(part)
        until(lambda: here.heard == [(1, b"hello"), (1, b"again")], "two lines")
        raw.sendall(b"x" * (LONGEST + 1))
        until(lambda: here.hub.gone == {1}, "that a line without end is the end")


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\n\n\n",
        b"\x00" * 100 + b"\n",
        b"WORD 0\n",
        b"WORD 4\n",
        b"WORD -1\n",
        b"WORD \xd9\xa3\n",  # a digit, somewhere
        b"WORD\n",
        b"WORD " + b"1" * 100 + b"\n",
        b"WOR 1\n",
        b"\nWORD 1\n",  # one line is enough
    ],
)
def test_a_stranger_is_not_listened_to(said: bytes, monkeypatch) -> None:
    monkeypatch.setattr(hubs, "STRANGER_S", 1e9)
    with listening() as here, called(here.hub) as stranger:
        word = str(here.hub.address["word"]).encode()
        stranger.sendall(said.replace(b"WORD", word).replace(b"WOR ", word[:-1] + b" "))
        stranger.sendall(b'{"count": 1}\n')
        assert ends(stranger)
        line = Connection(here.hub.address, 1)
        line.tell(b"me")
        until(lambda: here.heard, "the rank")
        assert here.heard == [(1, b"me")] and here.hub.gone == set()
        line.close()


def test_a_stranger_whose_first_line_does_not_end_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(hubs, "STRANGER_S", 1e9)
    with listening() as here, called(here.hub) as stranger:
        stranger.sendall(b"x" * (GREETING + 1))
        assert ends(stranger)


def test_who_says_nothing_is_sent_away_and_a_rank_is_not(monkeypatch) -> None:
    monkeypatch.setattr(hubs, "STRANGER_S", 0.3)
    with listening() as here:
        line = Connection(here.hub.address, 1)
        with called(here.hub) as silent:
            assert ends(silent)
        line.tell(b"me")
        until(lambda: here.heard == [(1, b"me")], "the rank")
        assert here.hub.gone == set()
        line.close()


def test_a_connection_that_went_away_again_is_not_waited_for() -> None:
    hub = Hub(2)
    hub._accept()
    hub.close()


def test_a_stranger_who_is_sent_away_while_he_speaks(monkeypatch) -> None:
    hub = Hub(2)
    with called(hub) as first:
        while not hub._peers:
            assert list(hub.hear(0.05)) == []
        monkeypatch.setattr(hubs, "STRANGERS", 1 - 2)  # one
        with called(hub):
            first.sendall(b"let me in\n")  # both are ready, the new one before
            assert list(hub.hear(0.05)) == []
            assert ends(first)
    hub.close()


def test_a_flood_of_strangers_takes_neither_files_nor_places() -> None:
    with listening() as here:
        crowd = [called(here.hub) for _ in range(4 + STRANGERS + 30)]
        assert ends(crowd[0]) and ends(crowd[29])
        until(lambda: len(here.hub._peers) <= 4 + STRANGERS, "a bound on the connections")
        line = Connection(here.hub.address, 3)
        line.tell(b"me")
        until(lambda: here.heard == [(3, b"me")], "the rank")
        for connection in (*crowd, line):
            connection.close()


def test_no_more_files_is_not_the_end(monkeypatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    tired = threading.Event()
    monkeypatch.setattr(
        hubs, "time", SimpleNamespace(sleep=lambda _: tired.set(), monotonic=time.monotonic)
    )
    with listening() as here, socket.socket() as late:
        taken = [os.dup(late.fileno())]
        while taken[-1] < max(taken[0], late.fileno()) + 1:  # no gap is left
            taken.append(os.dup(late.fileno()))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1, hard))
            late.connect(("127.0.0.1", here.hub.address["port"]))
            assert tired.wait(LONG_S)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in taken:
                os.close(number)
        line = Connection(here.hub.address, 1)
        line.tell(b"me")
        until(lambda: here.heard == [(1, b"me")], "the rank")
        line.close()


def test_many_ranks_take_no_files_of_the_program() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
        Hub(2).close()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (500, hard)
        Hub(1000).close()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(1500, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_second_connection_of_a_rank_takes_the_place_of_the_first() -> None:
    with listening() as here:
        first, second = Connection(here.hub.address, 1), Connection(here.hub.address, 1)
        assert ends(first._socket)
        second.tell(b"me")
        until(lambda: here.heard == [(1, b"me")], "the rank")
        assert here.hub.gone == set()
        second.close()


def test_a_connection_that_ended_is_made_anew() -> None:
    with listening() as here:
        line = Connection(here.hub.address, 1)
        line._socket.shutdown(socket.SHUT_RDWR)  # as a network does
        until(lambda: list(line.hear(0.05)) or line._socket.fileno() > 0, "a new connection")
        line.tell(b"me")
        until(lambda: here.heard == [(1, b"me")], "the rank")
        until(lambda: here.hub.gone == set() and line.gone == set(), "that nobody is gone")
        line.close()


def test_rank_0_that_ended_is_gone() -> None:
    with listening() as here:
        line = Connection(here.hub.address, 1)
        here.hub.tell(b"its last word")
    assert heard(line) == [b"its last word"]
    until(lambda: not list(line.hear(0.01)) and line.gone == {0}, "that rank 0 has gone")
    line.tell(b"nobody hears")
    line.close()


@contextmanager
def other_program(answer: bytes) -> Iterator[int]:
    """Another job's, at an address that this host believes to be rank 0's."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400\r\n\r\n", b"0" * 32 + b"\n", b"0" * 999])
def test_another_program_is_not_taken_for_rank_0(answer: bytes, monkeypatch) -> None:
    with listening() as here, other_program(answer) as port:
        address = here.hub.address
        ports = {"wrong": port, "right": address["port"]}
        connect = socket.create_connection
        monkeypatch.setattr(
            lines.socket,
            "create_connection",
            lambda at, timeout: connect(("127.0.0.1", ports[at[0]]), timeout),
        )
        line = Connection({**address, "hosts": ["wrong", "right"]}, 1)
        line.tell(b"me")
        until(lambda: here.heard == [(1, b"me")], "the rank")
        line.close()


@pytest.mark.parametrize("address", [{}, {"hosts": [], "port": 1}])
def test_no_address_is_no_connection(address: dict[str, object]) -> None:
    with pytest.raises(OSError, match="rank 0 listens nowhere"):
        Connection(address, 1)


def test_a_port_that_refuses_is_said() -> None:
    hub = Hub(2)
    address = hub.address
    hub.close()
    with pytest.raises(ConnectionRefusedError):
        Connection(address, 1)


def test_an_address_that_answers_nothing_is_given_up_in_time(monkeypatch) -> None:
    monkeypatch.setattr(lines, "CONNECT_S", 0.05)
    monkeypatch.setattr(lines, "ANSWER_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and never answers
        address = {"port": deaf.getsockname()[1], "word": "w", "answer": "a"}
        with pytest.raises(TimeoutError):
            Connection({**address, "hosts": ["127.0.0.1"]}, 1)
        monkeypatch.setattr(lines, "ALL_S", -1.0)
        with pytest.raises(OSError, match="rank 0 listens nowhere"):
            Connection({**address, "hosts": ["127.0.0.1"] * 9}, 1)


@pytest.mark.parametrize("family", ["both", "4 alone"])
def test_hosts_of_ipv4_and_of_ipv6(family: str, monkeypatch) -> None:
    if family == "4 alone":
        create = socket.create_server

        def without_6(at: tuple[str, int], **more: object) -> socket.socket:
            if more.get("family") == socket.AF_INET6:
                raise OSError("Address family not supported by protocol")
            return create(at, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(hubs.socket, "create_server", without_6)
    hosts = ["127.0.0.1", "::1"] if family == "both" and socket.has_dualstack_ipv6() else []
    for host in hosts or ["127.0.0.1"]:
        with listening() as here:
            line = Connection({**here.hub.address, "hosts": [host]}, 1)
            line.tell(b"me")
            until(lambda here=here: here.heard == [(1, b"me")], "the rank")
            line.close()


def test_kernels_find_out_that_a_host_is_gone() -> None:
    with listening() as here:
        line = Connection(here.hub.address, 1)
        for connection in (line._socket, here.hub._ranks[1]):
            option = connection.getsockopt
            assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle, every, count = (
                option(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{name}"))
                for name in ("IDLE", "INTVL", "CNT")
            )
            assert idle + every * count == hubs.UNREACHABLE_S == 300
            assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 300_000
        line.close()
