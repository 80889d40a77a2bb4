"""Which processes are below which: a rank's loaders, and the server that forks them."""

from __future__ import annotations

from pathlib import Path


def parents() -> dict[int, int]:
    """Process -> its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            pass
    return found


def descendants(pid: int) -> set[int]:
    """The processes below one."""
    of = parents()
    found = {pid}
    while more := {child for child, parent in of.items() if parent in found} - found:
        found |= more
    return found - {pid}
