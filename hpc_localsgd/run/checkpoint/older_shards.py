"""What a shard of version 0.1.0 held, as it is held today.

It did not say whether all rounds so far had length 1, and the length of the next round of a
schedule that observes was part of what the algorithm remembered.
"""

from __future__ import annotations

from typing import Any

_NEXT_H = "next_H"


def today(state: dict[str, Any]) -> dict[str, Any]:
    """Convert the state of a shard to today's parts; anything else wrong with it stays."""
    if "schedule" in state:
        return state
    place, sync = state.get("place"), state.get("sync")
    if isinstance(place, dict):
        place = {**place, "parallel": place.get("end") == _plus_one(place.get("s"))}
    observed = None
    if isinstance(sync, dict) and _NEXT_H in sync:
        observed = {"H": sync[_NEXT_H]}
        sync = {name: value for name, value in sync.items() if name != _NEXT_H}
    return {**state, "place": place, "sync": sync, "schedule": observed}


def _plus_one(s: Any) -> int | None:
    """Return the step at which round s ends if all rounds had length 1."""
    return s + 1 if type(s) is int else None
