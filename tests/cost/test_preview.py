"""A run in advance: the numbers of the papers, and costs that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_localsgd.cost.preview import POINTS, Preview, preview
from hpc_localsgd.cost.round_runs import CYCLE
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.base import Schedule, rounds
from hpc_localsgd.schedules.local_steps import every, phases, post_local, qsr
from hpc_localsgd.schedules.rates import Rate, constant, cosine
from hpc_localsgd.types import Now

FLAT = constant(lr=0.1)
VIT = cosine(lr=0.008, warmup=10_000, floor=1e-6, until=93_600)


def look(schedule: Schedule, steps: int, rate: Rate = FLAT, **given) -> Preview:  # type: ignore[no-untyped-def]
    payload = given.pop("payload", lambda now: 100)
    return preview(schedule, rate, steps, payload, parallel_bytes=100, **given)


def test_the_vit_run_of_the_qsr_paper() -> None:
    plan = look(qsr(0.0175, 4, warmup=10_000), 93_600, VIT, steps_per_epoch=312)
    assert plan.rounds == 9711
    assert plan.last == plan.longest
    assert (plan.last.begin, plan.last.H, plan.last.end) == (85_458, 8142, 93_600)
    assert plan.epochs(plan.last.H) == pytest.approx(26.1, abs=0.05)
    assert plan.forced
    assert plan.share == pytest.approx(0.1037, abs=1e-4)
    assert (plan.shortest.begin, plan.shortest.H) == (0, 4)
    assert look(every(4), 93_600, VIT).rounds == 23_400


@pytest.mark.parametrize(
    ("T", "t0", "H"), [(1347, 674, 16), (100, 0, 7), (100, 100, 7), (9, 3, 50)]
)
def test_post_local_syncs_at_every_step_and_then_every_H(T: int, t0: int, H: int) -> None:
    plan = look(post_local(t0, H), T)
    assert plan.rounds == t0 + math.ceil((T - t0) / H)
    assert plan.payload_bytes == 100 * plan.rounds
    assert plan.forced == ((T - t0) % H != 0)


schedules = st.one_of(
    st.builds(every, st.integers(1, 30)),
    st.builds(post_local, switch=st.integers(0, 200), every=st.integers(1, 30)),
    st.builds(qsr, alpha=st.floats(0, 1), at_least=st.integers(1, 5)),
    st.just(phases((50, 120), (1, 4, 9))),
)


@given(schedules, st.integers(1, 400))
def test_stretches_are_the_sync_steps_in_short(schedule: Schedule, steps: int) -> None:
    rate = cosine(lr=0.3, warmup=20, until=400)
    plan = look(schedule, steps, rate)
    syncs = [sync for stretch in plan.stretches for sync in stretch.syncs]
    assert syncs == [r.end for r in rounds(schedule, rate, steps)]
    assert plan.rounds == len(syncs)
    assert all(a.H != b.H for a, b in zip(plan.stretches, plan.stretches[1:], strict=False))


def uneven(now: Now) -> np.ndarray:
    """Three workers, the last of which sends only every fourth round, and at the end."""
    seldom = (now.s + 1) % 4 == 0 or now.last
    return np.array([10, 20, 30 * seldom])


@pytest.mark.parametrize("steps", [5, CYCLE, CYCLE + 1, 3 * CYCLE + 17])
def test_costs_repeated_in_long_stretches_are_exact(steps: int) -> None:
    asked: list[int] = []

    def seconds(now: Now) -> float:
        asked.append(now.s)
        return 0.5 if (now.s + 1) % 4 == 0 else 0.25

    plan = look(every(1), steps, payload=uneven, exchange_s=seconds)
    fourths = steps // 4
    extra = 0 if steps % 4 == 0 else 1
    assert plan.busiest_bytes == max(20 * steps, 30 * (fourths + extra))
    assert plan.payload_bytes == pytest.approx((30 * steps + 30 * (fourths + extra)) / 3)
    assert plan.exchange_s == pytest.approx(0.25 * steps + 0.25 * fourths)
    assert len(asked) == min(steps, CYCLE + 1)
    assert asked == sorted(asked)


def test_an_algorithm_is_asked_with_the_moment_of_the_sync() -> None:
    seen: list[Now] = []
    look(post_local(1, 4), 7, payload=lambda now: seen.append(now) or 1)
    assert seen == [
        Now(0, 0, 1, 0, 0.1, 0.1, last=False, parallel=True),
        Now(4, 1, 4, 3, 0.1, 0.1, last=False, parallel=False),
        Now(6, 2, 2, 1, 0.1, 0.1, last=True, parallel=False),
    ]


def test_seconds_add_up() -> None:
    plan = look(every(5), 100, exchange_s=lambda now: 2.0, step_s=0.5, parallel_s=1.5)
    assert (plan.exchange_s, plan.compute_s, plan.total_s, plan.parallel_s) == (40, 50, 90, 150)


def test_what_is_not_known_is_nan() -> None:
    plan = look(every(5), 100)
    assert all(math.isnan(s) for s in (plan.exchange_s, plan.compute_s, plan.total_s))
    assert math.isnan(plan.epochs(5))


def test_the_curve_has_the_rate_and_the_round_of_its_steps() -> None:
    rate = cosine(lr=0.2, warmup=10, until=1000)
    plan = look(post_local(500, 8), 1000, rate)
    assert len(plan.curve) == POINTS
    assert plan.curve[0] == (0, 0.0, 1)
    assert plan.curve[-1] == (999, rate(999), 4)
    assert all(H == (1 if t < 500 else 8) and lr == rate(t) for t, lr, H in plan.curve[:-1])
    plan = look(
        post_local(POINTS - 16, 8), POINTS
    )  # every step is a point, the first of a run of rounds too
    assert [H for _, _, H in plan.curve] == [1] * (POINTS - 16) + [8] * 16


def test_the_highest_rate_of_a_stretch_is_not_at_its_ends() -> None:
    (stretch,) = look(every(10), 100, cosine(lr=0.2, warmup=50, until=100)).stretches
    assert stretch.lr_first == 0
    assert stretch.lr_last < stretch.lr_high == 0.2


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        look(every(1), 0)
