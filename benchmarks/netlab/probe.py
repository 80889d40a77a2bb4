"""One end of a measurement of a way through the network: `probe.py listen` and `probe.py ADDRESS`.

Prints bytes a second that arrive, and the median seconds of a round trip, as JSON. Loads only the
standard library.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import time

PORT = 29510
TRIPS, WARM_UP = 30, 5
SENDS_S, RAMP_S = 0.6, 0.1  # a connection starts slowly, and the first burst is for free
_CHUNK = bytes(64 * 1024)
PATIENCE_S = 20.0


def listen() -> None:
    """Answer one measurement."""
    with socket.create_server(("", PORT)) as server:
        server.settimeout(PATIENCE_S)
        print("ready", flush=True)
        peer, _ = server.accept()
        with peer:
            peer.settimeout(PATIENCE_S)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(TRIPS + WARM_UP):
                peer.sendall(peer.recv(1))
            peer.sendall(json.dumps(_arrivals(peer)).encode())


def _arrivals(peer: socket.socket) -> float:
    """Count bytes a second, from the end of the ramp to the last byte."""
    began, counted, last = time.perf_counter(), 0, 0.0
    since = began + RAMP_S
    while part := peer.recv(1 << 20):
        last = time.perf_counter()
        if last >= since:
            counted += len(part)
    return counted / max(last - since, 1e-9)


def send(address: str) -> dict[str, float]:
    """Measure the way to a listener."""
    with socket.create_connection((address, PORT), PATIENCE_S) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trips = [_trip(peer) for _ in range(TRIPS + WARM_UP)][WARM_UP:]
        end = time.perf_counter() + SENDS_S
        while time.perf_counter() < end:
            peer.sendall(_CHUNK)
        peer.shutdown(socket.SHUT_WR)
        return {"bytes_per_s": json.loads(peer.recv(100)), "trip_s": statistics.median(trips)}


def _trip(peer: socket.socket) -> float:
    began = time.perf_counter()
    peer.sendall(b"x")
    peer.recv(1)
    return time.perf_counter() - began


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen()
    else:
        print(json.dumps(send(sys.argv[1])))
