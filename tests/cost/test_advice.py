"""Every warning of a plan: given when it should be, and only then."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hpc_localsgd.cost.advice import CHECKS, Circumstances, advise
from hpc_localsgd.cost.preview import Preview, preview
from hpc_localsgd.schedules.local_steps import Schedule, every, qsr
from hpc_localsgd.schedules.rates import Rate, constant, cosine

CALM = Circumstances(K=4, time_limit_s=3600, evaluate_every=100, momentum=0.9)


def look(schedule: Schedule, steps: int = 1000, rate: Rate | None = None, **given) -> Preview:  # type: ignore[no-untyped-def]
    known = {"exchange_s": lambda now: 0.1, "parallel_s": 0.1, "step_s": 0.01, **given}
    rate = rate or constant(lr=0.1)
    return preview(schedule, rate, steps, lambda now: 100, parallel_bytes=100, **known)


def kinds(plan: Preview, given: Circumstances = CALM, **changed) -> set[str]:  # type: ignore[no-untyped-def]
    return {advice.kind for advice in advise(plan, replace(given, **changed))}


GOSSIP = {"topology": "ring()", "gap": 0.2}
LAZY = every(8)
CASES = {
    "disconnected": (
        kinds(look(LAZY), topology="custom(...)", gap=0.0),
        kinds(look(LAZY), **GOSSIP),
    ),
    "round_over_limit": (
        kinds(look(every(500)), time_limit_s=4.9),
        kinds(look(every(500)), time_limit_s=5.1),
    ),
    "run_over_limit": (
        kinds(look(LAZY), time_limit_s=22.0),  # 10 s of steps, 12.5 s of exchanges
        kinds(look(LAZY), time_limit_s=23.0),
    ),
    "limit_without_step_time": (
        kinds(look(LAZY, step_s=math.nan)),
        kinds(look(LAZY, step_s=math.nan), time_limit_s=math.nan),
    ),
    "one_worker": (kinds(look(LAZY), K=1), kinds(look(LAZY))),
    "not_known": (kinds(look(every(1)), measured=True), kinds(look(every(1)))),
    "never_local": (kinds(look(every(1))), kinds(look(every(2)))),
    "sends_more": (
        kinds(look(every(2), exchange_s=lambda now: 0.3)),
        kinds(look(every(2), exchange_s=lambda now: 0.2)),
    ),
    "local_steps_do_little": (
        kinds(look(LAZY, rate=constant(lr=0.0006))),
        kinds(look(LAZY, rate=constant(lr=0.0007))),
    ),
    "evaluates_within_rounds": (
        kinds(look(every(101))),
        kinds(look(every(100))),
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_warning_is_given_when_it_applies_and_only_then(check) -> None:  # type: ignore[no-untyped-def]
    applies, does_not = CASES[check.__name__]
    assert check.__name__ in applies
    assert check.__name__ not in does_not


def test_a_reasonable_run_gives_no_warning() -> None:
    assert kinds(look(LAZY)) == set()


def test_a_job_without_a_limit_is_never_too_short() -> None:
    assert kinds(look(LAZY), time_limit_s=math.inf) == set()
    assert kinds(look(LAZY, step_s=math.nan), time_limit_s=math.inf) == set()


def test_gossip_at_every_step_is_what_it_is_meant_for() -> None:
    assert "never_local" not in kinds(look(every(1)), **GOSSIP)


def test_exchanges_that_are_cheaper_than_parallel_sgd_save_something_at_H_1() -> None:
    assert "never_local" not in kinds(look(every(1), exchange_s=lambda now: 0.05))


def test_parallel_sgd_that_was_asked_for_is_not_questioned() -> None:
    assert kinds(look(every(1)), parallel=True) == set()
    assert kinds(look(every(200), rate=constant(lr=1e-6)), parallel=True) == set()


def test_fewer_neighbours_are_advised_only_to_gossip() -> None:
    plan = look(every(1), exchange_s=lambda now: 0.3)
    (text,) = (a.text for a in advise(plan, replace(CALM, **GOSSIP)))
    assert "one_peer_exponential" in text
    texts = [a.text for a in advise(plan, CALM)]
    assert not any("one_peer_exponential" in text for text in texts)


def test_the_rule_of_thumb_is_of_sgd_and_of_the_largest_round() -> None:
    tiny = look(LAZY, rate=constant(lr=0.0001))
    assert "local_steps_do_little" in kinds(tiny)
    assert "local_steps_do_little" not in kinds(tiny, momentum=None)
    rising = look(LAZY, rate=cosine(lr=0.1, warmup=500, until=1000))  # tiny at both ends
    assert "local_steps_do_little" not in kinds(rising)


def test_the_last_round_of_qsr_is_longer_than_the_job() -> None:
    rate = cosine(lr=0.008, warmup=10_000, floor=1e-6, until=93_600)
    plan = look(qsr(0.0175, 4, warmup=10_000), 93_600, rate, step_s=0.5)
    (text,) = (a.text for a in advise(plan, CALM) if a.kind == "round_over_limit")
    assert "step 85,458" in text
    assert "8,142 steps, about 1 h 08 min" in text
    assert "job may last 1 h 00 min" in text
    assert "#SBATCH --time=01:22:00" in text
