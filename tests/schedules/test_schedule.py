"""Schedules: one convention of H, exact coverage, and the numbers of the papers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.base import Round, round_length, rounds
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.schedules.local_steps import (
    Schedule,
    doubling,
    every,
    phases,
    post_local,
    qsr,
    spread_triggered,
)
from hpc_localsgd.schedules.rates import Rate, constant, cosine, multi_step

FLAT = constant(lr=0.1)


def ends(schedule: Schedule, steps: int, rate: Rate = FLAT) -> list[int]:
    return [r.end for r in rounds(schedule, rate, steps)]


lengths = st.integers(1, 40)
steps = st.integers(1, 300)
times = st.integers(0, 300)
schedules = st.one_of(
    st.builds(every, lengths),
    st.builds(post_local, switch=times, every=lengths),
    st.builds(
        lambda at, every: phases(tuple(sorted(at)), tuple(every)),
        st.sets(st.integers(1, 300), min_size=2, max_size=2),
        st.lists(lengths, min_size=3, max_size=3),
    ),
    st.builds(qsr, alpha=st.floats(0, 2), at_least=lengths, power=st.sampled_from([1, 2, 3])),
)
rates = st.one_of(
    st.builds(constant, lr=st.floats(1e-3, 1)),
    st.builds(cosine, lr=st.floats(1e-3, 1), warmup=st.integers(0, 50), until=st.integers(60, 300)),
    st.builds(multi_step, lr=st.floats(1e-3, 1), at=st.tuples(times, times)),
)


@given(schedules, rates, steps)
def test_rounds_cover_exactly_the_steps_of_the_run(s: Schedule, rate: Rate, steps: int) -> None:
    planned = list(rounds(s, rate, steps))
    assert planned[0].begin == 0
    assert planned[-1].end == steps
    assert all(a.end == b.begin for a, b in pairwise(planned))
    assert all(r.H >= 1 and type(r.H) is int for r in planned)
    assert all(r.lr == rate(r.begin) for r in planned)


@given(schedules, times, st.floats(1e-9, 10))
def test_a_schedule_is_a_pure_function_with_H_of_at_least_1(s: Schedule, t: int, lr: float) -> None:
    assert s(t, lr) == s(t, lr) >= 1


def test_the_first_round_of_H_steps_ends_after_exactly_H_steps() -> None:
    assert ends(every(4), 12) == [4, 8, 12]
    assert ends(post_local(switch=3, every=4), 11) == [1, 2, 3, 7, 11]


def test_a_round_never_runs_past_the_end() -> None:
    assert ends(every(4), 10) == [4, 8, 10]
    assert round_length(every(100), 7, 0.1, 10) == 3
    assert round_length(every(100), 7, 0.1, None) == 100


@pytest.mark.parametrize("H", [0, -1])
def test_a_schedule_that_gives_no_step_is_refused(H: int) -> None:
    class Standing(Schedule):
        def __call__(self, t: int, lr: float) -> int:
            return H

    with pytest.raises(ConfigurationError, match=f"gave a round of {H} steps at step 7"):
        round_length(Standing(), 7, 0.1, 10)


def test_every_step_ends_a_round_when_H_is_1() -> None:
    assert ends(every(1), 5) == [1, 2, 3, 4, 5]


@given(st.integers(1, 400), times, lengths)
def test_post_local_syncs_at_every_step_and_then_every_H(T: int, t0: int, H: int) -> None:
    t0 = min(t0, T)
    syncs = len(ends(post_local(switch=t0, every=H), T))
    assert syncs == t0 + math.ceil((T - t0) / H)


def test_a_phase_ends_where_the_next_begins() -> None:
    assert ends(phases(at=(3, 9), every=(1, 4, 8)), 20) == [1, 2, 3, 7, 9, 17, 20]


def test_phases_without_a_beginning_are_one_constant_phase() -> None:
    assert ends(phases(at=(), every=(6,)), 13) == ends(every(6), 13)


@pytest.mark.parametrize(
    ("lr", "H"), [(0.008, 4), (0.006, 8), (0.004, 19), (0.002, 76), (0.001, 306), (0.0005, 1225)]
)
def test_qsr_gives_the_numbers_of_the_paper(lr: float, H: int) -> None:
    assert qsr(alpha=0.0175, at_least=4)(0, lr) == H


def test_qsr_floors_what_floating_point_makes_just_too_small() -> None:
    assert int((0.3 / 0.1) ** 2) == 8  # the trap
    assert qsr(alpha=0.3, at_least=1)(0, 0.1) == 9
    assert qsr(alpha=0.3, at_least=1)(0, 0.1001) == 8  # and nothing that is really smaller


def test_qsr_needs_no_rate_during_warm_up_or_without_growth() -> None:
    assert qsr(alpha=0.0175, at_least=4, warmup=10)(9, 1e-6) == 4
    assert qsr(alpha=0.0175, at_least=4, warmup=10)(10, 1e-6) > 1000
    assert qsr(alpha=0, at_least=4)(0, 0.0) == 4


def test_qsr_at_a_rate_of_zero_lasts_to_the_end_of_the_run() -> None:
    assert round_length(qsr(), 90, 0.0, 100) == 10


@pytest.mark.parametrize(("power", "syncs", "last"), [(2, 9711, 85_458), (3, 5096, 83_972)])
def test_qsr_plans_the_vit_run_of_the_paper(power: int, syncs: int, last: int) -> None:
    """300 epochs x 312 steps, as counted from the released code: the last 26 epochs are silent."""
    rate = cosine(lr=0.008, warmup=10_000, floor=1e-6, until=93_600)
    plan = list(rounds(qsr(0.0175, 4, power, warmup=10_000), rate, 93_600))
    assert len(plan) == syncs
    assert plan[-1].begin == last
    assert len(ends(every(4), 93_600, rate)) == 23_400


def test_durations_of_schedules_become_steps() -> None:
    units = Units(steps_per_epoch=10, samples_per_step=32, total=200)
    assert post_local("50%", 8).in_steps(units) == post_local(100, 8)
    assert phases(("5 epochs", "75%"), (1, 2, 4)).in_steps(units) == phases((50, 150), (1, 2, 4))
    assert qsr(warmup="1 epoch").in_steps(units) == qsr(warmup=10)
    assert every(3).in_steps(units) == every(3)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: every(0), "every.steps must be at least 1"),
        (lambda: post_local(every=0), "post_local.every must be at least 1"),
        (lambda: phases(every=(1, 0, 2)), "phases.every must be at least 1"),
        (lambda: phases(at=("50%",), every=(1, 2, 3)), "1 beginnings .* need 2 lengths"),
        (lambda: phases(("50%", "20%")).in_steps(Units(1, 1, 100)), "increasing order"),
        (lambda: qsr(at_least=0), "qsr.at_least must be at least 1"),
        (lambda: qsr(alpha=-1), "must not be negative"),
    ],
)
def test_an_impossible_schedule_is_refused(make, complaint: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigurationError, match=complaint):
        make()


def test_a_planned_round_knows_its_length() -> None:
    assert Round(5, 13, 0.1).H == 8


def test_qsr_waits_for_the_end_of_the_warm_up_of_the_rate() -> None:
    units = Units(100.0, 10, 1000)
    rate = cosine(0.1, warmup="10%").in_steps(units)
    schedule = qsr(alpha=0.2, at_least=4).in_steps(units, int(rate.warmup))
    assert schedule.warmup == 100
    lengths = [r.H for r in rounds(schedule, rate, 1000)]
    assert lengths[:25] == [4] * 25 and len(lengths) > 30
    assert qsr(warmup=50).in_steps(units, 100).warmup == 50


@pytest.mark.parametrize("schedule", [doubling, spread_triggered])
def test_bounds_that_leave_no_length_are_refused(schedule: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"at_most is 2, less than .*at_least, which is 8"):
        schedule(at_least=8, at_most=2)
    equal = schedule(at_least=8, at_most=8).in_steps(Units(10.0, 16, 100))
    assert [equal(t, 0.1) for t in (0, 50)] == [8, 8]


def test_a_doubling_every_zero_steps_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"doubling\.every must be at least 1 step"):
        doubling(every=0).in_steps(Units(10.0, 16, 100))
