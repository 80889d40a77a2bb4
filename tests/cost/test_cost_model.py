"""Predicted seconds: latency times messages and bytes over bandwidth, for a ring all-reduce."""

from __future__ import annotations

import pytest

from hpc_localsgd.cost.cost_model import (
    NETWORKS,
    Network,
    allreduce_messages,
    allreduce_wire_bytes,
)
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.errors import ConfigurationError


@pytest.mark.parametrize(("n", "messages", "wire"), [(1, 0, 0), (2, 2, 1200), (4, 6, 1800)])
def test_a_ring_all_reduce_sends_the_minimum(n: int, messages: int, wire: int) -> None:
    assert allreduce_messages(n) == messages
    assert allreduce_wire_bytes(n, 1200) == wire


def test_seconds_are_latency_and_bandwidth() -> None:
    assert Network("test", latency_s=0.5, bytes_per_s=100).seconds(3, 250) == pytest.approx(4.0)


def test_no_message_takes_no_time() -> None:
    assert network("10GbE").seconds(0, 0) == 0


def test_networks_are_found_by_name() -> None:
    assert all(network(name).name == name for name in NETWORKS)
    with pytest.raises(ConfigurationError, match="unknown network '10gbe'.*10GbE"):
        network("10gbe")
