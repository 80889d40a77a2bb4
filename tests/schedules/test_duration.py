"""Durations in any unit become steps, and what is not one is refused."""

from __future__ import annotations

import pytest

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units, seconds
from hpc_localsgd.schedules.local_steps import Schedule, doubling, phases, post_local, qsr
from hpc_localsgd.schedules.rates import Rate, constant, cosine, multi_step

UNITS = Units(steps_per_epoch=22.5, samples_per_step=64, total=900)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (300, 300),
        ("300", 300),
        ("300 steps", 300),
        ("1 step", 1),
        ("2 epochs", 45),
        ("1.5 epochs", 34),  # 33.75
        ("4ep", 90),  # no number in scientific notation
        ("4epochs", 90),
        ("10e-1 epochs", 22),  # 22.5
        ("30_000", 30_000),
        ("6400 samples", 100),
        ("2e3 samples", 31),  # 31.25
        ("50%", 450),
        ("0.5 %", 4),  # 4.5, to the even neighbour
        (" 7 Steps ", 7),
        (0, 0),
    ],
)
def test_any_unit_becomes_steps(duration: int | str, steps: int) -> None:
    found = UNITS.steps(duration)
    assert found == steps
    assert type(found) is int


@pytest.mark.parametrize(
    "nonsense", ["soon", "3 weeks", "-5", "", "e", "1 2", "50 % epochs", "1e", "+"]
)
def test_what_is_no_duration_is_refused_with_what_to_type(nonsense: str) -> None:
    with pytest.raises(ConfigurationError, match="250 epochs|does not begin with a number"):
        UNITS.steps(nonsense)


def test_a_cadence_of_nothing_is_never_and_of_a_little_every_step() -> None:
    for never in (0, "0", "0 epochs", "0%", "0 samples"):
        assert UNITS.cadence(never) == 0
    assert [UNITS.cadence(little) for little in ("0.001 epochs", "1 samples", 1)] == [1, 1, 1]


def test_the_length_of_the_run_cannot_be_a_share_of_itself() -> None:
    with pytest.raises(ConfigurationError, match="cannot be given as '50%' of itself"):
        Units(22.5, 64).steps("50%")


def test_the_option_is_named_and_time_only_where_it_may_be_given() -> None:
    with pytest.raises(ConfigurationError) as caught:
        UNITS.cadence("10 minuts", "--checkpoint-every", or_time=True)
    assert str(caught.value).startswith("--checkpoint-every '10 minuts' is not a duration: type ")
    assert '"10 minutes", steps (3000)' in str(caught.value)
    with pytest.raises(ConfigurationError, match="^--evaluate-every '10 minutes' is not") as caught:
        UNITS.cadence("10 minutes", "--evaluate-every")
    assert '"10 minutes"' not in str(caught.value)
    with pytest.raises(ConfigurationError, match="^--watchdog '_ s' does not begin with a number"):
        seconds("_ s", "--watchdog")


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (constant(0.1, warmup="x"), "rate.warmup"),
        (multi_step(0.1, at=["x"]), "rate.at"),
        (cosine(0.1, until="x"), "rate.until"),
        (post_local("x", 4), "post_local.switch"),
        (phases(["x"], [1, 4]), "phases.at"),
        (qsr(alpha=0.1, warmup="x"), "qsr.warmup"),
        (doubling(every="x"), "doubling.every"),
    ],
)
def test_rates_and_schedules_name_theirs(made: Rate | Schedule, named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{named} 'x' is not a duration"):
        made.in_steps(UNITS)


@pytest.mark.parametrize(
    ("words", "each"),
    [("s sec second seconds", 1), ("min minute minutes", 60), ("h hour hours", 3600)],
)
def test_every_name_of_a_unit_of_time_is_worth_the_same(words: str, each: int) -> None:
    assert {seconds(f"3 {word}") for word in words.split()} == {3.0 * each}


def test_the_longest_round_is_looked_for_from_the_first_step_to_the_last_and_no_further() -> None:
    steps = 10_000

    class Longer(Schedule):
        def __init__(self, at: int) -> None:
            self.at = at

        def __call__(self, t: int, lr: float) -> int:
            assert 0 <= t < steps
            return 7 if t == self.at else 1

    found = [Longer(at).longest(constant(0.1), steps) for at in (0, steps - 1, steps)]
    assert found == [7, 7, 1]
