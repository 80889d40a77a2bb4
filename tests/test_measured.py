"""The schedule that measures: the same lengths on every rank, steered to its target."""

from __future__ import annotations

import numpy as np
import pytest
from small_runs import go, small_run

from hpc_localsgd.algorithms.gossip import Gossip
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.measured import NEXT_H, Measured
from hpc_localsgd.plan.schedule import doubling, spread_triggered


@pytest.mark.parametrize(
    ("H", "spread", "after"), [(8, 1e-3, 8), (8, 1e-9, 16), (8, 1.0, 4), (8, 2e-3, 4), (1, 0.0, 2)]
)
def test_the_next_length_follows_the_spread(H: int, spread: float, after: int) -> None:
    assert spread_triggered(target=1e-3).after(H, spread) == after


@pytest.mark.parametrize("inner", [LocalSGD(), Gossip()], ids=repr)
def test_the_spread_comes_near_its_target(inner: LocalSGD | Gossip) -> None:
    schedule = spread_triggered(target=5e-2, at_most=64)
    run = small_run(algorithm=Measured(inner, schedule), H=schedule, steps=600, lr=0.05)
    p, memory = go(run, spread=1)
    lengths = np.array([row["step_end"] - row["step_begin"] for row in memory.rounds])
    name = "spread" if inner.ends_equal else "before_exchange/spread"  # what the schedule steers
    late = [float(v) for t, v in memory.values[name] if t > 300]
    assert lengths[0] == 1 and lengths.max() > 4 and lengths.sum() == 600
    assert 1e-2 < np.median(late) < 0.25
    assert p.sync[NEXT_H] >= 1


def test_doubling_doubles_up_to_its_limit() -> None:
    schedule = doubling(at_least=1, every=100, at_most=8)
    assert [schedule(t, 0.1) for t in (0, 99, 100, 250, 300, 10**9)] == [1, 1, 2, 4, 8, 8]
