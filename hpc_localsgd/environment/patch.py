"""One change to Horovod's source. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """A replacement of `old` by `new` in `file`, and the reason."""

    file: str
    old: str
    new: str
    why: str
