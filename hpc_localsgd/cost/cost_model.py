"""Predicted seconds of an exchange: the alpha-beta model of a network.

    seconds = messages * latency + bytes on the wire / bandwidth

Used for the simulated world, whose clock is modelled, and for planning. A prediction is always
labelled as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpc_localsgd.types import ConfigurationError


@dataclass(frozen=True)
class Network:
    """One link as every worker sees it.

    Attributes:
        name: What it is called in plans and files.
        latency_s: Seconds a message of no length takes (alpha).
        bytes_per_s: What a worker can send in a second (1 / beta).
    """

    name: str
    latency_s: float
    bytes_per_s: float

    def seconds(self, messages: float, wire_bytes: float) -> float:
        """Return the seconds a worker needs to send `wire_bytes`, in so many messages."""
        return messages * self.latency_s + wire_bytes / self.bytes_per_s


NETWORKS = {
    network.name: network
    for network in (
        Network("1GbE", 50e-6, 0.117e9),
        Network("10GbE", 20e-6, 1.17e9),
        Network("100GbE", 5e-6, 11.7e9),
        Network("hdr200", 2e-6, 23e9),
        Network("nvlink", 3e-6, 200e9),
    )
}


def network(name: str) -> Network:
    """Return a network by name.

    Raises:
        ConfigurationError: Unknown name; lists the known ones.
    """
    if name not in NETWORKS:
        raise ConfigurationError(f"unknown network {name!r}: type one of {', '.join(NETWORKS)}")
    return NETWORKS[name]


def allreduce_messages(n: int) -> int:
    """Return how many messages a rank sends, one by one, in a ring all-reduce over n ranks."""
    return 2 * (n - 1)


def allreduce_wire_bytes(n: int, payload_bytes: int) -> int:
    """Return the bytes a rank sends in a ring all-reduce, the minimum: 2 (n - 1) / n payloads."""
    return 2 * (n - 1) * payload_bytes // n


def fit(
    sizes_bytes: Sequence[float],
    seconds: Sequence[float],
    *,
    messages: float = 1,
    name: str = "measured",
) -> Network:
    """Fit a network to measured seconds, by the least relative squares.

        minimise sum_i ((messages alpha + beta size_i - seconds_i) / seconds_i)^2,  alpha, beta >= 0

    Relative, because the short exchanges, which tell alpha, are lost among the long ones otherwise.

    Args:
        sizes_bytes: Bytes a worker put on the wire in each measurement.
        seconds: How long each took.
        messages: Messages one after another in each of them.
        name: Of the network.

    Raises:
        ConfigurationError: Fewer than two different sizes, or a time that is not positive.
    """
    size, took = np.asarray(sizes_bytes, dtype=float), np.asarray(seconds, dtype=float)
    if len(np.unique(size)) < 2 or not (took > 0).all():
        raise ConfigurationError(
            "a network is fitted to positive seconds of at least two different sizes, "
            f"got {list(sizes_bytes)} bytes and {list(seconds)} s"
        )
    per_message, per_byte = messages / took, size / took
    columns = np.stack([per_message, per_byte], axis=1)
    alpha, beta = np.linalg.lstsq(columns, np.ones(len(took)), rcond=None)[0]
    if alpha < 0:
        alpha, beta = 0.0, per_byte.sum() / np.square(per_byte).sum()
    elif beta <= 0:
        alpha, beta = per_message.sum() / np.square(per_message).sum(), 0.0
    return Network(name, float(alpha), float(1 / beta) if beta > 0 else float("inf"))
