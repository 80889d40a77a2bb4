"""How long a run took by the clock on the wall: set-up, measuring and checkpoints included.

The seconds of rounds are of training alone, and of simulated workers in part predictions; these
are what a person waited. Time between a stop and the resumption is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

ATTRIBUTE = "wall_s"


def whole_run(segments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the attributes of a run: of its last file, with when and whence it began, how long.

    Args:
        segments: Root attributes of each file of the run.
    """
    first = segments[0]
    begun = {"created": first.get("created", ""), "t0": first.get("t0", 0)}
    begun["begins_from"] = str(first.get("begins_from", ""))
    return {**segments[-1], **begun, ATTRIBUTE: wall_s(segments)}


def wall_s(segments: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds that a run was recorded for; NaN where a part of it does not tell.

    Args:
        segments: Root attributes of each file of the run.
    """
    return sum(_of_one(attrs) for attrs in segments)


def _of_one(attrs: Mapping[str, Any]) -> float:
    """Return the seconds of one file, to the last flush; of older versions, to its close."""
    try:
        if ATTRIBUTE in attrs:
            said = float(attrs[ATTRIBUTE])
        else:
            ends = [datetime.fromisoformat(str(attrs[end])) for end in ("created", "closed")]
            said = (ends[1] - ends[0]).total_seconds()
    except (KeyError, ValueError, TypeError):  # a run that was killed has not been closed
        return math.nan
    return said if 0 <= said < math.inf else math.nan
