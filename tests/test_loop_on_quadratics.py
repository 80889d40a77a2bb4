"""O2: the loop on quadratics with closed forms. eta = 0.1, h = 1, noise of variance 1, K = 8."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import go, quadratic, small_run

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.loop import Position

ETA, K = 0.1, 8
RHO = 1 - ETA


def noisy(H: int, steps: int, dim: int, start: float = 0.0, **options: Any) -> tuple[Position, Any]:
    spec = quadratic(noise=1.0, dim=dim, start=start)
    return go(small_run(spec=spec, K=K, H=H, steps=steps, lr=ETA, **options), spread=1)


@pytest.mark.parametrize("H", [1, 4, 7, 30])
def test_the_mean_takes_the_same_path_for_every_H(H: int) -> None:
    reference = noisy(1, 30, dim=50, start=1.0, algorithm=AllReduce())[0].x
    x = noisy(H, 30, dim=50, start=1.0)[0].x
    torch.testing.assert_close(x, reference, rtol=0, atol=1e-12)


def test_the_mean_has_the_variance_and_expectation_of_the_closed_form() -> None:
    x = noisy(16, 60, dim=40_000, start=2.0)[0].x[0]
    variance = ETA**2 / K * (1 - RHO**120) / (1 - RHO**2)
    assert variance == pytest.approx(0.006578947, rel=1e-4)
    assert x.var().item() == pytest.approx(variance, rel=0.02)  # 3 standard errors
    assert x.mean().item() == pytest.approx(2.0 * RHO**60, abs=3 * (variance / 40_000) ** 0.5)


@pytest.mark.parametrize(("j", "expected"), [(1, 0.00875), (4, 0.0262285), (16, 0.0444713)])
def test_the_spread_j_steps_after_a_sync_is_that_of_the_closed_form(
    j: int, expected: float
) -> None:
    dim, rounds = 5_000, 3
    spec = quadratic(noise=1.0, dim=dim, start=0.0)
    run = small_run(spec=spec, K=K, H=j, steps=j * rounds, lr=ETA)
    seen: list[float] = []

    class Looking(LocalSGD):
        def on_sync(self, x, state, world, now):  # type: ignore[no-untyped-def]
            seen.append(float((x - x.mean(0)).square().sum(1).mean()) / dim)
            return super().on_sync(x, state, world, now)

    _, memory = go(replace(run, algorithm=Looking("parameters")), spread=1)
    assert len(seen) == rounds
    assert np.mean(seen) == pytest.approx(expected, rel=0.02)
    if j > 1:  # the probe leaves rounds of length 1 out
        probed = [value / dim for _, value in memory.values["spread"]]
        assert probed == pytest.approx(seen, rel=1e-12)


@pytest.mark.parametrize(
    ("H", "expected"), [(1, 0.75), (2, 0.7285714), (10, 0.5987111), (100, 0.5000066)]
)
def test_unequal_workers_come_to_rest_at_the_fixed_point_of_H(H: int, expected: float) -> None:
    h, c = (1.0, 3.0), (0.0, 1.0)
    weights = [1 - (1 - ETA * hk) ** H for hk in h]
    exact = sum(w * ck for w, ck in zip(weights, c, strict=True)) / sum(weights)
    assert exact == pytest.approx(expected, abs=5e-7)
    run = small_run(spec=quadratic(h, c), K=2, H=H, steps=300 // H * H, lr=ETA)
    torch.testing.assert_close(
        go(run)[0].x, torch.full((2, 1), exact, dtype=torch.float64), rtol=0, atol=1e-12
    )
