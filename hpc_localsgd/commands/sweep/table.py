"""The results of a sweep: a line for each choice of its grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpc_localsgd.analysis.compare.groups import SeedGroup
from hpc_localsgd.analysis.compare.measures import ACCURACY, MEASURES, SENT, TALKED, summary, told
from hpc_localsgd.analysis.report.source import Source
from hpc_localsgd.analysis.text_tables import text_table
from hpc_localsgd.commands.sweep.members import Member
from hpc_localsgd.trajectory import Trajectory, TrajectoryError

SHOWN = (ACCURACY, SENT, TALKED, *(m for m in MEASURES if m.name == "training"))
OTHERWISE = tuple(m for m in MEASURES if m.name == "test loss")  # of tasks without an accuracy


def groups(members: Sequence[Member], out: Path) -> dict[str, SeedGroup]:
    """Return the runs of each choice that have a record: label of the choice -> its seeds.

    Args:
        members: The runs of the sweep.
        out: Its folder.
    """
    found: dict[str, list[Source]] = {}
    for member in members:
        try:
            run = Trajectory(out / member.name)
        except (TrajectoryError, OSError):
            continue
        found.setdefault(member.label, []).append(Source(run, member.name))
    return {label: SeedGroup(label, tuple(runs), {}) for label, runs in found.items()}


def table(members: Sequence[Member], out: Path, width: int | None = None) -> str:
    """Write the table, mean and deviation over seeds; empty if there is no record yet.

    Args:
        members: The runs of the sweep.
        out: Its folder.
        width: Characters of a line; None for no limit.
    """
    found = groups(members, out)
    if not found:
        return ""
    known = [m for m in SHOWN if any(summary(g, m).count for g in found.values())]
    if ACCURACY not in known:
        known = [*OTHERWISE, *known]
    clocks = {str(s.run.attrs["clock"]) for g in found.values() for s in g.runs}
    names = [
        f"{m.name} (modelled)" if m is TALKED and "modelled" in clocks else m.name for m in known
    ]
    rows = [
        [label, group.standing, *(told(summary(group, m), m) for m in known)]
        for label, group in found.items()
    ]
    return text_table(["", "runs", *names], rows, width=width, keys=2, left=2)
