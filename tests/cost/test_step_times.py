"""Seconds of a step, their spread, and how long the mean of K workers waits for the slowest."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_localsgd.cost.step_times import StepTimes, largest_of, step_times


@pytest.mark.parametrize("K", [2, 4, 32, 1024])
def test_the_largest_of_K_normal_numbers(K: int) -> None:
    drawn = np.random.default_rng(0).normal(size=(20_000_000 // K // 10, K)).max(axis=1).mean()
    assert largest_of(K) == pytest.approx(drawn, rel=0.05)
    assert largest_of(1) == 0


@pytest.mark.parametrize("apart", [0.0, 0.003])
@pytest.mark.parametrize("H", [1, 8])
def test_deviations_of_workers_and_of_steps_are_found_again(H: int, apart: float) -> None:
    random, S, K = np.random.default_rng(1), 4000, 64
    own = 0.1 + apart * random.normal(size=K)
    compute = H * own + np.sqrt(H) * 0.01 * random.normal(size=(S, K))
    found = step_times(compute, np.full(S, H))
    assert found.step_s == pytest.approx(own.mean(), rel=1e-3)
    assert found.jitter_s == pytest.approx(0.01, rel=0.02)
    assert found.apart_s == pytest.approx(np.std(own - own.mean(), ddof=1), rel=0.05, abs=1e-4)
    # So the wait of the same run, and of one with rounds four times as long, is told.
    assert found.waiting_s(H, K) == pytest.approx(
        (compute.max(1) - compute.mean(1)).mean(), rel=0.2
    )
    longer = 4 * H * own + np.sqrt(4 * H) * 0.01 * random.normal(size=(S, K))
    told = (longer.max(1) - longer.mean(1)).mean()
    assert found.waiting_s(4 * H, K) == pytest.approx(told, rel=0.2)


def test_a_long_round_waits_once() -> None:
    noisy, uneven = StepTimes(0.1, jitter_s=0.01), StepTimes(0.1, apart_s=0.01)
    assert noisy.waiting_s(16, 8) == pytest.approx(4 * noisy.waiting_s(1, 8))
    assert uneven.waiting_s(16, 8) == pytest.approx(16 * uneven.waiting_s(1, 8))
    assert noisy.waiting_s(16, 1) == 0


def test_a_slow_beginning_is_not_the_time_of_a_step() -> None:
    compute = np.full((100, 2), 0.8)
    compute[0] = 60.0  # a compiler was at work
    found = step_times(compute, np.full(100, 8))
    assert (found.step_s, found.off) == (pytest.approx(0.1), pytest.approx(0))
    compute[0, 1] = 50.0  # and not as long on both: every round was to wait for it
    assert step_times(compute, np.full(100, 8)).waiting_s(8, 2) == pytest.approx(0)
    drifting = np.linspace(0.9, 1.1, 100)[:, None] * np.full((100, 2), 0.8)
    assert step_times(drifting, np.full(100, 8)).off == pytest.approx(0.061, abs=0.005)


def test_rounds_without_seconds_are_left_out() -> None:
    compute = np.array([[np.nan, np.nan], [0.0, 0.0], [0.3, np.nan], [0.3, 0.3]])
    assert step_times(compute, np.array([3, 3, 3, 3])).step_s == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no round"):
        step_times(compute[:2], np.array([3, 3]))
