"""Whether the last exchange of a run is one like any other: then the run can be made longer."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from small_runs import Memory, go
from variants import VARIANTS, built_once, name, run_of

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.loop import train
from hpc_localsgd.run.probes import Spread
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.schedules.local_steps import every

H, CUT, WHOLE = 2, 6, 10


@cache
def goes_on_as_if_longer(algorithm: Algorithm) -> bool:
    """Compare a run of 10 steps with one of 6 that continues to 10, in every bit."""
    length = every(1) if algorithm.only_single_steps else every(H)
    whole, _ = go(run_of(algorithm, WHOLE, H=length, spec=built_once(use="whole")))
    run = run_of(algorithm, CUT, H=length, spec=built_once(use="cut"))
    p, _ = go(run)
    longer = replace(run, steps=WHOLE)
    p = train(longer, p, Recorder(longer, (), Spread(0), Memory()))  # type: ignore[arg-type]
    return torch.equal(p.x, whole.x)


@pytest.mark.parametrize("algorithm", VARIANTS, ids=name)
def test_an_algorithm_that_ends_like_any_round_can_go_on(algorithm: Algorithm) -> None:
    assert goes_on_as_if_longer(algorithm) or algorithm.last_exchange_differs


@pytest.mark.parametrize(
    "kind", dict.fromkeys(type(a) for a in VARIANTS if a.last_exchange_differs)
)
def test_who_says_that_it_ends_in_a_way_of_its_own_does(kind: type[Algorithm]) -> None:
    assert not all(goes_on_as_if_longer(a) for a in VARIANTS if type(a) is kind)
