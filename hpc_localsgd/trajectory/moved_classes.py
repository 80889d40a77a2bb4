"""Classes that configurations of version 0.1.0 name where they were then.

The path of a class stands in the configuration of every run, and in people's own files: those of
before the move mean the class where it is now.
"""

from __future__ import annotations

import re

# Modules that hold classes an option can name, longest first: old -> new.
MOVED = {
    "hpc_localsgd.plan.topology.given": "hpc_localsgd.topology.derived",
    "hpc_localsgd.plan.topology.drawn": "hpc_localsgd.topology.random_graphs",
    "hpc_localsgd.plan.topology": "hpc_localsgd.topology",
    "hpc_localsgd.plan.schedule": "hpc_localsgd.schedules.local_steps",
    "hpc_localsgd.plan.rates": "hpc_localsgd.schedules.rates",
}


def where_now(text: str) -> str:
    """Replace every moved class path in a text by where the class is now.

    >>> where_now("hpc_localsgd.plan.schedule.every")
    'hpc_localsgd.schedules.local_steps.every'
    """
    return _renamed(text, MOVED)


def where_then(text: str) -> str:
    """Return the text that version 0.1.0 would have written in place of this one.

    >>> where_then("hpc_localsgd.topology.static.ring")
    'hpc_localsgd.plan.topology.static.ring'
    """
    return _renamed(text, {new: old for old, new in MOVED.items()})


def _renamed(text: str, names: dict[str, str]) -> str:
    path = re.compile(rf"\b({'|'.join(map(re.escape, names))})(?=\.\w)")
    return path.sub(lambda found: names[found[1]], text)
