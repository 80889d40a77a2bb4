"""How the runs of a sweep stand, from their records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_localsgd.commands.summary import NONE, status
from hpc_localsgd.commands.sweep.members import Member
from hpc_localsgd.trajectory import TrajectoryError

ENDED = ("complete", "diverged")  # to try again would not help
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Standing:
    """What there is in the folder of a sweep.

    Attributes:
        of: Name of a run -> the status of its record: complete, diverged, stopped, running (also of
            one that was killed), none, or unreadable.
        strangers: Names of folders with a record that do not belong to the sweep, or not any more.
    """

    of: dict[str, str]
    strangers: tuple[str, ...]

    def pending(self, members: Sequence[Member]) -> list[Member]:
        """Return the runs that are still to be done, in their order."""
        return [member for member in members if self.of[member.name] not in ENDED]

    def counted(self) -> str:
        """Say how many there are of each: ``3 complete, 1 stopped, 8 not begun``."""
        words = {NONE: "not begun", "running": "begun", UNREADABLE: UNREADABLE}
        order = (*ENDED, "stopped", "running", NONE, UNREADABLE)
        counts = [(list(self.of.values()).count(each), words.get(each, each)) for each in order]
        return ", ".join(f"{n} {word}" for n, word in counts if n) or "no run"


def standing(members: Sequence[Member], out: Path) -> Standing:
    """Look at the records of a sweep.

    Args:
        members: Its runs.
        out: Its folder, which may be missing.
    """
    of = {member.name: _status(out / member.name) for member in members}
    there = sorted(path.parent.name for path in out.glob("*/trajectory.h5"))
    return Standing(of, tuple(name for name in there if name not in of))


def _status(folder: Path) -> str:
    try:
        return status(folder)
    except (TrajectoryError, OSError):
        return UNREADABLE
