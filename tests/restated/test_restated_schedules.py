"""Schedules and learning rates against their restatement, alone and in a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.commands.configuration.names import choices
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.base import rounds
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.schedules.local_steps import (
    Schedule,
    adacomm,
    doubling,
    every,
    phases,
    post_local,
    qsr,
    spread_triggered,
)
from hpc_localsgd.schedules.rates import multi_step
from restated.by_the_loop import trained
from restated.problem import Case, Problem, equal
from restated.schedules.local_steps import SCHEDULES, WARMUP, after_losses, after_measuring
from restated.schedules.rates import RATES, STEPS

UNITS = Units(float("nan"), 0, STEPS)
RATE_NAMES = [type(rate).__name__ for rate, _ in RATES]


def schedule_ids() -> list[str]:
    return [f"{type(ours).__name__}-{i}" for i, (ours, _) in enumerate(SCHEDULES)]


@pytest.mark.parametrize("option", ["schedule", "rate"])
def test_nothing_is_without_its_restatement(option: str) -> None:
    restated = {type(x).__name__ for x, _ in [*SCHEDULES, *RATES]} | {"spread_triggered", "adacomm"}
    missing = set(choices(option)) - restated
    assert not missing, f"write what {missing} say into tests/restated/schedules, from their papers"


@pytest.mark.parametrize(("ours", "equation"), RATES, ids=RATE_NAMES)
def test_rates(ours: Any, equation: Any) -> None:
    rate = ours.in_steps(UNITS)
    expected = [equation(t) for t in range(STEPS + 5)]
    np.testing.assert_allclose([rate(t) for t in range(STEPS + 5)], expected, rtol=1e-14)


@pytest.mark.parametrize(("ours", "equation"), SCHEDULES, ids=schedule_ids())
def test_schedules(ours: Schedule, equation: Any) -> None:
    schedule = ours.in_steps(UNITS, WARMUP)
    lrs = [0.1, 0.3, 0.07, 0.0123, 0.001, 0.2, 0.15]
    found = [[schedule(t, lr) for t in range(STEPS)] for lr in lrs]
    assert found == [[equation(t, lr) for t in range(STEPS)] for lr in lrs]


@pytest.mark.parametrize(("ours", "equation"), SCHEDULES, ids=schedule_ids())
def test_a_run_has_the_rounds_of_its_schedule(ours: Schedule, equation: Any) -> None:
    """In the loop, and in the plan of it."""
    rate = multi_step(lr=0.1, at=(9, 33), factor=0.5)
    ends, t = [], 0
    while t < STEPS:
        t = min(STEPS, t + equation(t, rate(t)))
        ends.append(t)
    schedule = ours.in_steps(UNITS, WARMUP)
    planned = list(rounds(schedule, rate, STEPS))
    assert [r.end for r in planned] == ends
    assert [(r.begin, r.H) for r in planned] == [
        (a, b - a) for a, b in zip([0, *ends], ends, strict=False)
    ]
    problem = Problem(lengths=(STEPS,))
    problem.rate = rate  # type: ignore[method-assign]
    case = Case("", LocalSGD(), lambda p: None, ours={"schedule": schedule})
    assert trained(case, problem).ends == ends


@pytest.mark.parametrize(("least", "most"), [(1, 20), (2, 5)])
def test_rounds_that_follow_the_spread(least: int, most: int) -> None:
    """H from the spread of the workers before each exchange, mean_k ||x_k - mean||^2."""
    target, steps = 3.0, 60
    expected = Problem(lengths=(steps,))
    x, H, t, ends = expected.start, least, 0, []
    while t < steps:
        H = min(H, steps - t)
        x = expected.local_steps(x, t, t + H)
        spread = sum(((x - equal(x)) ** 2).sum(axis=1)) / expected.K
        x = expected.end_round(equal(x), H)
        t += H
        ends.append(t)
        H = after_measuring(target, least, most, H, float(spread))
    assert len({b - a for a, b in zip([0, *ends], ends, strict=False)}) > 2
    schedule = spread_triggered(target=target, at_least=least, at_most=most)
    case = Case("", LocalSGD(average="parameters"), lambda p: None, ours={"schedule": schedule})
    noting = trained(case, Problem(lengths=(steps,)))
    assert noting.ends == ends
    np.testing.assert_allclose(noting.noted, expected.noted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("H", [1, 3, 8, 100])
@pytest.mark.parametrize("spread", [0.0, 1e-9, 0.009, 0.01, 0.013, 0.019, 0.021, 5.0])
def test_the_next_round_after_a_spread(H: int, spread: float) -> None:
    schedule = spread_triggered(target=0.01, at_least=2, at_most=120).having_observed({"H": H})
    assert schedule.observe(spread)(0, 0.1) == after_measuring(0.01, 2, 120, H, spread)


@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("interval", [1, 20])
@pytest.mark.parametrize("seed", range(4))
def test_rounds_that_follow_the_loss(seed: int, interval: int, decay: float) -> None:
    """Losses that fall in the main, with noise, and now and then none at all."""
    draw = np.random.default_rng(seed)
    losses = 3 * np.exp(-np.arange(60) / 12) * draw.uniform(0.7, 1.3, 60)
    losses[draw.integers(0, 60, 4)] = [np.nan, np.inf, np.nan, -np.inf]
    schedule: Schedule = adacomm(at_first=12, interval=interval, decay=decay)
    found = []
    for loss in losses.tolist():
        found.append(schedule(0, 0.1))
        schedule = schedule.observe(loss)
    assert found == after_losses(12, interval, decay, losses.tolist())
    assert decay == 1.0 or found[-1] < 6


def test_a_loss_that_is_not_positive_says_nothing_of_progress() -> None:
    for loss in (0.0, -1.0):
        schedule = adacomm(at_first=8, interval=1, decay=0.25).observe(loss)
        assert [schedule(0, 0.1), schedule.observe(loss)(0, 0.1)] == [8, 2]


def test_rounds_without_an_end() -> None:
    """A rate of 0, or next to it, and doublings for ever: 2^31 steps."""
    rule = qsr(alpha=0.3, at_least=4)
    assert rule(0, 0.0) == rule(0, 1e-300) == rule(0, 1e-310) == rule(0, 1e-6) == 2**31
    assert rule(0, 0.3 / 46340.5) == 46340**2 + 46340 < 2**31
    assert doubling(at_least=1, every=1, at_most=2**40)(1000, 0.1) == 2**31
    assert qsr(alpha=0.0, at_least=7)(5, 0.0) == 7


def test_the_rule_does_not_wait_for_a_warm_up_that_nobody_named() -> None:
    assert qsr(alpha=0.3, at_least=2).in_steps(UNITS)(0, 0.1) == 9
    assert qsr(alpha=0.3, at_least=2).in_steps(UNITS, warmup=1)(0, 0.1) == 2
    assert qsr(alpha=0.3, at_least=2, warmup=2).in_steps(UNITS, warmup=9)(2, 0.1) == 9


@pytest.mark.parametrize("make", [every, lambda H: post_local(0, H), lambda H: phases((), (H,))])
def test_a_round_has_a_step_at_least(make: Any) -> None:
    assert make(1)(0, 0.1) == 1
    with pytest.raises(ConfigurationError, match="at least 1 step, got 0"):
        make(0)


def test_phases_begin_one_after_the_other() -> None:
    with pytest.raises(ConfigurationError, match="increasing order"):
        phases(at=(5, 5), every=(1, 2, 3)).in_steps(UNITS)
    with pytest.raises(ConfigurationError, match="2 beginnings .* need 3 lengths"):
        phases(at=(5, 6), every=(1, 2))


def test_what_steers_a_rule_must_be_positive() -> None:
    with pytest.raises(ConfigurationError, match="alpha must not be negative, got -0.1"):
        qsr(alpha=-0.1)
    for target in (0.0, -1.0):
        with pytest.raises(ConfigurationError, match="target must be > 0"):
            spread_triggered(target=target)
    with pytest.raises(ConfigurationError, match="at_first must be at least 1 step, got 0"):
        adacomm(at_first=0)
    assert adacomm(at_first=1, decay=1.0).longest(multi_step(), 10) == 1
    for decay in (0.0, -0.5, 1.001, float("nan")):
        with pytest.raises(ConfigurationError, match="decay must be from 0 to 1"):
            adacomm(decay=decay)
    for made in (qsr, doubling, spread_triggered):
        with pytest.raises(ConfigurationError, match="at_least must be at least 1 step, got 0"):
            made(at_least=0)
