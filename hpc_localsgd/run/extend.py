"""Continuing a run to another length than it was begun with.

The learning rate often ends with the run, durations may be shares of it, and its last round is cut
short. So the first t steps of a run of N steps are those of a run of M steps only where rate and
rounds up to t are the same in both. There a run may change its length and is, bit for bit, the one
that was asked for that length from the start. Elsewhere the result is neither, and is computed only
where `--extend` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.base import Schedule, rounds
from hpc_localsgd.schedules.rates import Rate


@dataclass(frozen=True)
class Timetable:
    """Rate and rounds of a run, with durations in steps.

    Attributes:
        steps: Its length.
        rate: The learning rate.
        schedule: Length of a round.
    """

    steps: int
    rate: Rate
    schedule: Schedule


def describe_extension(
    state: Mapping[str, Any], before: Timetable, now: Timetable, algorithm: Algorithm, extend: bool
) -> str:
    """Say what changes when a run resumes with another length.

    Args:
        state: Of a checkpoint of the run, with a sound `place`.
        before: The course that the run was begun with.
        now: The course that it is to continue with.
        algorithm: Whose last exchange may be of its own kind.
        extend: Whether the user asked for it, whatever follows.

    Returns:
        A sentence for the user.

    Raises:
        ConfigurationError: The run is longer than that already, or its steps so far would have been
            others, and it was not asked for.
    """
    t = state["place"]["t"]
    if t > now.steps:
        raise ConfigurationError(
            f"the run has taken {t} steps, and one of {now.steps} is shorter: type --steps {t} or "
            "more, or begin another run in another --out"
        )
    lengths = f"the run was begun with {before.steps} steps and continues to {now.steps}"
    why = _difference(state["place"], before, now, algorithm)
    if why is None:
        return f"{lengths}: rate and rounds so far are those of a run of {now.steps} steps"
    if not extend:
        raise ConfigurationError(
            f"the run was begun with {before.steps} steps, and one of {now.steps} would have been "
            f"different: {why}. Add --extend to resume from step {t} all the same"
            f"{_from_here(t, before, now)}; or begin a run of {now.steps} steps in another --out"
        )
    return f"{lengths}{_from_here(t, before, now)}; it is not a run of {now.steps} steps: {why}"


def _from_here(t: int, before: Timetable, now: Timetable) -> str:
    """Describe rate and H of the next step, if there is one."""
    if not 0 < t < now.steps:
        return ""
    rate = f"{now.rate(t):.3g} after {before.rate(t - 1):.3g}"
    return f", where the rate is {rate} and H {now.schedule(t, now.rate(t))}"


def _difference(
    place: Mapping[str, int], before: Timetable, now: Timetable, algorithm: Algorithm
) -> str | None:
    """Return what the steps so far would have had otherwise; None if nothing."""
    if place["t"] == 0:
        return None
    return (
        _of_rates(place["t"], before, now)
        or _of_rounds(place, before, now)
        or _of_the_end(place, before, now, algorithm)
    )


def _of_rates(t: int, before: Timetable, now: Timetable) -> str | None:
    if before.rate == now.rate:
        return None
    u = next((u for u in range(t) if before.rate(u) != now.rate(u)), None)
    if u is None:
        return None
    return f"step {u} would have had the rate {now.rate(u):.6g} in place of {before.rate(u):.6g}"


def _of_rounds(place: Mapping[str, int], before: Timetable, now: Timetable) -> str | None:
    """Compare the rounds up to a place; the run's end may have cut the last of them."""
    begin, end = place["begin"], place["end"]
    if now.schedule.observes:  # its rounds follow what was measured, and are not known
        may_be_cut = end == before.steps or end > now.steps
        said = f"the end of the run may have cut the round from step {begin}"
        return said if may_be_cut else None
    if before.schedule != now.schedule or before.rate != now.rate:
        pairs = zip(
            rounds(before.schedule, before.rate, before.steps),
            rounds(now.schedule, now.rate, now.steps),
            strict=False,
        )
        for was, would in pairs:
            if was.begin >= begin:
                break
            if (was.begin, was.end) != (would.begin, would.end):
                return _other_round(was.begin, would.end, was.end)
    would_end = begin + min(now.schedule(begin, now.rate(begin)), now.steps - begin)
    return None if would_end == end else _other_round(begin, would_end, end)


def _other_round(begin: int, would: int, was: int) -> str:
    return f"the round from step {begin} would have ended at step {would} in place of {was}"


def _of_the_end(
    place: Mapping[str, int], before: Timetable, now: Timetable, algorithm: Algorithm
) -> str | None:
    ended = place["t"] == place["end"] == before.steps
    if not (ended and before.steps != now.steps and algorithm.last_exchange_differs):
        return None
    name = type(algorithm).__name__
    return f"the exchange at step {place['t']} was the last, which {name} makes in a way of its own"
