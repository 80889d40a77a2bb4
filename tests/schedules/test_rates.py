"""Learning rates: pure functions of the step, with their values at the steps that matter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.schedules.rates import constant, cosine, multi_step


def test_constant_is_the_same_at_every_step() -> None:
    assert [constant(lr=0.3)(t) for t in (0, 1, 10_000)] == [0.3, 0.3, 0.3]


def test_warm_up_rises_linearly_and_reaches_the_peak_at_its_end() -> None:
    rate = constant(lr=0.4, warmup=4)
    assert [rate(t) for t in range(6)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])


def test_warm_up_can_begin_above_zero() -> None:
    rate = constant(lr=0.4, warmup=4, warmup_from=0.5)
    assert [rate(t) for t in range(5)] == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4])


def test_multi_step_drops_from_the_named_steps_on() -> None:
    rate = multi_step(lr=1.0, at=(10, 20), factor=0.1)
    assert [rate(t) for t in (9, 10, 19, 20, 99)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_is_at_its_peak_half_way_and_floor_where_it_should_be() -> None:
    rate = cosine(lr=0.2, warmup=10, floor=0.04, until=110)
    assert [rate(t) for t in (10, 60, 110, 500)] == pytest.approx([0.2, 0.12, 0.04, 0.04])
    assert rate(35) == pytest.approx(0.04 + 0.16 * (1 + 0.5**0.5) / 2)


@given(st.integers(0, 500), st.floats(0, 0.1), st.integers(0, 100))
def test_cosine_stays_between_floor_and_peak(t: int, floor: float, warmup: int) -> None:
    rate = cosine(lr=0.2, warmup=warmup, floor=floor, until=300)
    low = 0.0 if t < warmup else floor
    assert low - 1e-12 <= rate(t) <= 0.2 + 1e-12


def test_durations_of_rates_become_steps() -> None:
    units = Units(steps_per_epoch=10, samples_per_step=32, total=200)
    assert constant(warmup="5%").in_steps(units) == constant(warmup=10)
    assert multi_step(at=("50%", "15 epochs"), warmup="1 epoch").in_steps(units) == multi_step(
        at=(100, 150), warmup=10
    )
    assert cosine(warmup="5%").in_steps(units) == cosine(warmup=10, until=200)


@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan")])
def test_a_rate_that_is_not_positive_is_refused(lr: float) -> None:
    with pytest.raises(ConfigurationError, match="rate.lr must be positive"):
        constant(lr=lr)


def test_a_cosine_that_ends_within_its_warm_up_is_refused() -> None:
    units = Units(10.0, 16, 100)
    with pytest.raises(ConfigurationError, match=r"rate.until \(1%\) is step 1,.*ends at step 50"):
        cosine(warmup="50%", until="1%").in_steps(units)
    assert cosine(warmup="100%").in_steps(units)(100) == pytest.approx(0.1)
