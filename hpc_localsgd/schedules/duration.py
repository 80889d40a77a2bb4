"""Durations in any unit, turned into optimiser steps before the loop starts.

The loop knows only steps. A user may write 3000, "3000 steps", "250 epochs", "1.5 epochs",
"2e6 samples" or "50%" (of the run). A few options also take time: "10 minutes", or 10:00 as Slurm
writes it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TypeAlias

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.time_limit import clock

Duration: TypeAlias = int | str
MOST_STEPS = 10**12  # no run is longer: a mistyped exponent

_PATTERN = re.compile(r"^\s*([0-9_.]+(?:e[+-]?[0-9]+)?)\s*(%|[a-z]*)\s*$")
_STEPS, _EPOCHS, _SAMPLES = {"", "step", "steps"}, {"epoch", "epochs", "ep"}, {"sample", "samples"}


_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
}


def seconds(duration: Duration, option: str = "") -> float | None:
    """Return the seconds of a duration of time ("90 s", "2 h", "1:30:00"), else None.

    Args:
        duration: As it was given.
        option: What it was given for, to be named in an error.

    Raises:
        ConfigurationError: It is a time, but not a valid one.
    """
    if (by_clock := clock(str(duration), option)) is not None:
        return by_clock
    match = _PATTERN.match(str(duration).lower())
    if match is None or match.group(2) not in _SECONDS:
        return None
    return _number(match.group(1), duration, option) * _SECONDS[match.group(2)]


@dataclass(frozen=True)
class Units:
    """Converter of durations to steps.

    Attributes:
        steps_per_epoch: Optimiser steps in one pass over the training data, not rounded.
        samples_per_step: Samples all K workers together use in one step.
        total: Steps of the whole run; None while that is what is being computed.
    """

    steps_per_epoch: float
    samples_per_step: int
    total: int | None = None

    def steps(self, duration: Duration, option: str = "") -> int:
        """Return the duration in whole optimiser steps, rounded to the nearest.

        Args:
            duration: As it was given.
            option: What it was given for, to be named in an error.

        Raises:
            ConfigurationError: The text is not a number with a known unit, or is negative, or far
                longer than any run.
        """
        number, unit = _parse(duration, option)
        if unit in _STEPS:
            exact = number
            if number % 1:
                raise ConfigurationError(
                    f"{_given(duration, option)} is not a whole number of steps: type one"
                )
        elif unit in _EPOCHS:
            exact = number * self.steps_per_epoch
        elif unit in _SAMPLES:
            exact = number / self.samples_per_step
        elif number > 100:
            raise ConfigurationError(f"{_given(duration, option)} is more than the whole run")
        elif self.total is not None:
            exact = number / 100 * self.total
        else:
            raise ConfigurationError(
                f"the length of the run cannot be given as {duration!r} of itself"
            )
        if exact > MOST_STEPS:
            raise ConfigurationError(
                f"{_given(duration, option)} is more than {MOST_STEPS:.0e} steps: type less"
            )
        return round(exact)

    def cadence(self, every: Duration, option: str = "", or_time: bool = False) -> int:
        """Return a cadence in steps: 0 of any unit means never, anything else at least one step.

        Args:
            every: As it was given.
            option: What it was given for, to be named in an error.
            or_time: Whether a time is accepted too, so that the error says so.
        """
        number, _ = _parse(every, option, or_time)
        return max(1, self.steps(every, option)) if number else 0


def _parse(duration: Duration, option: str = "", or_time: bool = False) -> tuple[float, str]:
    if clock(str(duration), option) is not None and not or_time:
        raise ConfigurationError(
            f"{_given(duration, option)} is a time, and this is counted in steps: type steps "
            '(3000), "250 epochs", "2e6 samples" or "50%" of the run'
        )
    match = _PATTERN.match(str(duration).lower())
    unit = match.group(2) if match else None
    if match is None or unit not in _STEPS | _EPOCHS | _SAMPLES | {"%"}:
        time = '"10 minutes", ' if or_time else ""
        raise ConfigurationError(
            f"{_given(duration, option)} is not a duration: type {time}steps (3000), "
            '"250 epochs", "2e6 samples" or "50%" of the run'
        )
    return _number(match.group(1), duration, option), str(unit)


def _number(text: str, duration: Duration, option: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        given = _given(duration, option)
        raise ConfigurationError(f"{given} does not begin with a number") from error
    if not math.isfinite(number):
        raise ConfigurationError(f"{_given(duration, option)} is larger than any number")
    return number


def _given(duration: Duration, option: str) -> str:
    return f"{option} {duration!r}".lstrip()
