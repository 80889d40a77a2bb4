"""Every run of a sweep is checked before the first one starts, by what `train` and `plan` check."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_localsgd.commands.sweep.members import Member
from hpc_localsgd.engine.launch import Launch
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.types import Now

if TYPE_CHECKING:
    from hpc_localsgd.commands.configuration.config import Resolved

PROG = "python -m hpc_localsgd.train"
_RANKS = re.compile(r"(?:^|\s)(?:-np|-n|--np|--ntasks|--nproc-per-node|--nproc_per_node)[ =]+(\d+)")


def check(members: Sequence[Member], ranks: int | None, elsewhere: bool = False) -> None:
    """Check every choice of a grid; what differs by the seed alone is checked once.

    Args:
        members: The runs.
        ranks: How many each run is started on; None where nobody knows here.
        elsewhere: Whether they run on other machines, which may have data that is missing here.

    Raises:
        ConfigurationError: For the first that is wrong, which is named, with how many others are.
    """
    choices = {member.label: member for member in reversed(members)}
    wrong: list[str] = []
    texts: dict[str, Member] = {}
    for member in reversed(choices.values()):
        try:
            resolved = _parsed(member)
            _assembled(resolved, ranks, elsewhere)
            _check_distinct(member, texts.setdefault(resolved.text, member))
        except ConfigurationError as error:
            wrong.append(f"{member.label}: {error}")
    if wrong:
        others = f" ({len(wrong) - 1} more of {len(choices)} choices are refused)"
        raise ConfigurationError(f"{wrong[0]}{others if wrong[1:] else ''}; nothing was started")


def ranks_of(launch: Sequence[str]) -> int | None:
    """Return the number of ranks that a launcher's command asks for; 1 without a launcher.

    Args:
        launch: The words in front of every run, as ``mpirun -np 2``.
    """
    if not launch:
        return 1
    counts = _RANKS.findall(" ".join(launch))
    return int(counts[-1]) if counts else None


def _parsed(member: Member) -> Resolved:
    from hpc_localsgd.commands.configuration import config

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return config.parse(member.words(Path()), PROG)
    except SystemExit as error:
        last = (said.getvalue().strip().splitlines() or ["refused"])[-1]
        raise ConfigurationError(last) from error


def _assembled(resolved: Resolved, ranks: int | None, elsewhere: bool) -> None:
    """Build the task for one worker, and act out the first round on a small model.

    Raises:
        ConfigurationError: The task, its durations, or algorithm and workers do not go together.
    """
    from hpc_localsgd.commands.assembly.cadences import checkpoint_cadence, probes, watchdog_s
    from hpc_localsgd.commands.plan.planned_run import PlanOptions, planned_run
    from hpc_localsgd.commands.plan.rehearsal import Rehearsal
    from hpc_localsgd.cost.network_file import network
    from hpc_localsgd.tasks.base import TaskContext

    config = resolved.config
    if ranks != 1 and config.world == "simulated":
        raise ConfigurationError("the simulated world is one process: leave --launch out")
    if ranks is None and config.workers is None:
        raise ConfigurationError("give workers: the command of --launch does not say how many")
    n = (config.workers or 1) if ranks is None else ranks
    launch = Launch("none" if n == 1 else "mpirun", 0, n, 0, "--launch")
    planned = planned_run(resolved, PlanOptions(), launch)
    if planned.stand_in and not elsewhere:
        config.task.build(TaskContext(batch=config.batch_per_worker))  # says what data is missing
    probes(config, planned.units)
    checkpoint_cadence(config, planned.units)
    watchdog_s(config)
    rehearsal = Rehearsal(planned, network(config.fabric))
    lr = planned.rate(0)
    H = min(planned.schedule(0, lr), planned.steps)
    last = planned.steps == H
    rehearsal(Now(t=H - 1, s=0, H=H, h=H - 1, lr=lr, lr_round=lr, last=last, parallel=H == 1))


def _check_distinct(member: Member, other: Member) -> None:
    """Refuse two choices that amount to the same run: it would count as two seeds.

    Raises:
        ConfigurationError: They are not one and the same.
    """
    if other is not member:
        raise ConfigurationError(f"it is the same run as {other.label}: take one out of the grid")
