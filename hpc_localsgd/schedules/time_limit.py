"""Times as Slurm spells them: `10:00`, `1:30:00`, `2-12`."""

from __future__ import annotations

import math
import re

from hpc_localsgd.errors import ConfigurationError

_CLOCK = re.compile(r"(?:(?P<days>\d{1,9})-)?(?P<rest>\d{1,9}(?::\d{1,9}){0,2})", re.ASCII)
_UNITS = [(3600, 24), (60, 60), (1, 60)]  # seconds, and how many make the next
_ENDLESS = {"UNLIMITED", "INFINITE"}


def seconds_of(text: str) -> float:
    """Return the seconds of a time limit.

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
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return 60.0 * int(text)
    found = clock(text, "--time-limit")
    if found is None:
        raise ConfigurationError(
            f"--time-limit {text!r} is not a time: type minutes (90), 1:30:00 or 2-12:00:00"
        )
    return found


def clock(text: str, option: str = "") -> float | None:
    """Return the seconds of a time with colons or days, as `10:00`; None for other texts.

    Args:
        text: As it was given.
        option: What it was given for, to be named in an error.

    Raises:
        ConfigurationError: It is one, with too many of a unit after a larger one (`1:60`).
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None or not (match["days"] or ":" in text):
        return None
    numbers = [int(number) for number in match["rest"].split(":")]
    units = _UNITS[-len(numbers) :]
    if match["days"] is not None:
        numbers, units = [int(match["days"]), *numbers], [(86400, 10**9), (3600, 24), *_UNITS[1:]]
    bounds = [10**9, *(bound for _, bound in units[1:])]  # the first may be as large as one likes
    if any(number >= bound for number, bound in zip(numbers, bounds, strict=False)):
        raise ConfigurationError(
            f"{option} {text.strip()!r} is not a time: hours are followed by 0 to 59 minutes, "
            "minutes by 0 to 59 seconds, days by 0 to 23 hours".lstrip()
        )
    return float(sum(n * unit for n, (unit, _) in zip(numbers, units, strict=False)))
