"""One change to Horovod's source. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """In `file`, `old` becomes `new`, because of `why`."""

    file: str
    old: str
    new: str
    why: str
