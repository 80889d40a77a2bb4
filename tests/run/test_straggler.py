"""The closing table names the host that the others wait for, when it is worth naming."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpc_localsgd.commands.display import straggler
from hpc_localsgd.trajectory import Rounds


def rounds(wait_s: Any, compute_s: float = 1.0) -> Rounds:
    wait_s = np.array(wait_s, dtype=float)
    S, steps = len(wait_s), np.arange(len(wait_s))
    per_worker = [np.full(wait_s.shape, compute_s), wait_s, np.zeros(wait_s.shape)]
    rest = [np.zeros(wait_s.shape)] * 2
    return Rounds(steps, steps + 1, np.ones(S), np.ones(S), *per_worker, *rest)


def test_the_host_of_the_worker_that_arrives_last_is_named() -> None:
    slow_third = rounds([[1, 1, 0, 1]] * 8)
    said = straggler(slow_third, ["a", "a", "b", "b"])
    assert said == "b, 6 s per worker (43 % of the time)"


@pytest.mark.parametrize(
    ("wait_s", "hosts"),
    [
        ([[0.01, 0.01, 0, 0.01]] * 8, ["a", "a", "b", "b"]),  # hardly any waiting
        ([[1, 1, 0, 1]] * 8, ["a"] * 4),  # one host has nobody to wait for
        ([[1, 1, 0, 1]] * 8, []),  # nobody knows where they were
        (np.zeros((0, 4)), ["a", "a", "b", "b"]),
    ],
)
def test_nobody_is_named_without_need(wait_s: Any, hosts: list[str]) -> None:
    assert straggler(rounds(wait_s), hosts) == ""


def test_hosts_that_take_turns_are_not_worth_a_name() -> None:
    turns = [[0.06, 0.06, 0, 0.06], [0, 0.06, 0.06, 0.06]] * 4
    assert straggler(rounds(turns), ["a", "b", "c", "d"]) == ""
