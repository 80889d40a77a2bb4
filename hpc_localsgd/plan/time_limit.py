"""The time limit of a job, as Slurm spells it."""

from __future__ import annotations

import math
import re

from hpc_localsgd.types import ConfigurationError

_CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
_ENDLESS = {"UNLIMITED", "INFINITE"}


def seconds_of(text: str) -> float:
    """Seconds of a time limit.

    As for `sbatch --time`: minutes, minutes:seconds, hours:minutes:seconds, days-hours,
    days-hours:minutes or days-hours:minutes:seconds; UNLIMITED is infinity.

    >>> seconds_of("90"), seconds_of("1:30:00"), seconds_of("1-12")
    (5400.0, 5400.0, 129600.0)

    Raises:
        ConfigurationError: The text is none of these.
    """
    text = text.strip()
    if text.upper() in _ENDLESS:
        return math.inf
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ConfigurationError(
            f"--time-limit {text!r} is not a time: type minutes (90), 1:30:00 or 2-12:00:00"
        )
    numbers = [int(number) for number in match["rest"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        return float(((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds)
    if len(numbers) == 1:
        return 60.0 * numbers[0]
    hours, minutes, seconds = (0, *numbers)[-3:]
    return float((hours * 60 + minutes) * 60 + seconds)
