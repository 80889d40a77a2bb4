"""What runs achieved and what they cost, from their records.

    python -m hpc_localsgd summary runs/digits            # one run, line by line
    python -m hpc_localsgd summary runs/sweep/*           # several, one line each
    python -m hpc_localsgd summary --status runs/digits   # a word, for scripts
    python -m hpc_localsgd summary --began runs/digits    # the step at which its last start began
    python -m hpc_localsgd summary --watch runs/*         # a line a run, again when it has moved on

Needs h5py and numpy alone, and a run that is in progress or was killed is read as well.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from hpc_localsgd.analysis.costs import exchanges, rounds_said
from hpc_localsgd.analysis.curves import ACCURACY, TEST_LOSS, without_accuracy
from hpc_localsgd.analysis.text_tables import named_values, text_table
from hpc_localsgd.commands.exit_codes import CommandParser
from hpc_localsgd.commands.output import columns_of_output, put
from hpc_localsgd.commands.record_command import Misses, attempt
from hpc_localsgd.cost.formatting import grouped, human_seconds, percent
from hpc_localsgd.trajectory import Trajectory, TrajectoryError
from hpc_localsgd.trajectory.estimate import human_bytes
from hpc_localsgd.trajectory.safe_text import readable
from hpc_localsgd.trajectory.segments import segment_paths, trajectory_file

PROG = "python -m hpc_localsgd summary"
NONE = "none"  # the status of a folder without a record
AGAIN_S = 10.0  # between two looks of --watch; the record is flushed as often
HEADINGS = ("run", "status", "K", "steps", "rounds", "accuracy", "time of a step", "communication")


def main(argv: Sequence[str] | None = None) -> int:
    """Print what the command line asks for; return the exit status."""
    options = parser().parse_args(argv)
    if options.watch:
        return attempt(PROG, lambda: _watch(_recorded(options.run)))
    return attempt(PROG, lambda: put(_summary(options)))


def _summary(options: argparse.Namespace) -> str:
    if options.status:
        return "\n".join(status(run) for run in options.run)
    if options.began:
        return "\n".join(began(run) for run in options.run)
    if len(options.run) == 1:
        return page(Trajectory(options.run[0]))
    return table([Trajectory(run) for run in _recorded(options.run)])


def _recorded(runs: Sequence[str]) -> Sequence[str]:
    """Return the folders that have a record, or the only one.

    Raises:
        TrajectoryError: Of several none has.
    """
    there = [run for run in runs if status(run) != NONE]
    if not there and len(runs) > 1:
        raise TrajectoryError(f"no such trajectory: {', '.join(runs)}. Give folders of runs.")
    return there or runs


def _watch(runs: Sequence[str]) -> None:
    """Print a line for each run, and again when it has changed, while one is in progress."""
    said: dict[str, str] = {}
    misses = Misses()
    with suppress(KeyboardInterrupt):
        while True:
            for run in runs:
                with suppress(TrajectoryError) if run in said else nullcontext():
                    line = status_line(Trajectory(run))
                    if said.get(run) != line:
                        put(line)
                    said[run] = line
            with misses.allowed():
                if all(status(run) != "running" for run in runs):
                    return
            time.sleep(AGAIN_S)


def status_line(run: Trajectory) -> str:
    """Return where a run is, on one line."""
    reached, steps = _reached(run), int(run.attrs.get("steps") or 0)
    of = f" of {grouped(steps)}, {100 * reached // steps} %" if steps else ""
    parts = [f"{readable(str(run.path.parent))}: {run.status}", f"step {grouped(reached)}{of}"]
    if (accuracy := _accuracy(run)) != "-":
        parts.append(f"test accuracy {accuracy}")
    if (communicating := _percent(run, " of the time")) != "-":
        parts.append(f"communication {communicating}")
    return ", ".join(parts)


def status(run: str | Path) -> str:
    """Return complete, stopped, diverged or running (also if killed); none without a record."""
    return Trajectory(run).status if trajectory_file(run).exists() else NONE


def began(run: str | Path) -> str:
    """Return the step at which the last start that wrote a record began; none without one."""
    paths = segment_paths(run)
    return str(Trajectory(paths[-1], segments=False).attrs["t0"]) if paths else NONE


def page(run: Trajectory) -> str:
    """Format one run, a line for each figure."""
    totals, said, modelled = run.totals, run.attrs, run.attrs["clock"] == "modelled"
    of = "per worker" + (", modelled" if modelled else "")
    sent = human_bytes(totals.payload_bytes)
    rows = [
        ("status", f"{run.status}{_restarts(run)}"),
        ("run", f"{said['algorithm']}, {said['schedule']}"),
        ("on", f"{said['world']}, {said['task']}, {run.P:,} parameters"),
        *([("begins from", readable(whence))] if (whence := said["begins_from"]) else []),
        ("steps", grouped(_reached(run))),
        ("rounds", rounds_said(run)),
        ("sent by a worker", sent),
        ("computing", f"{human_seconds(totals.compute_s)} per worker"),
        ("waiting for the slowest", f"{human_seconds(totals.wait_s)} {of}"),
        ("transferring", f"{human_seconds(totals.transfer_s)} {of}"),
        ("communication", _percent(run, " of the time")),
        ("wall time", _wall(run)),
        _quality(run),
    ]
    named = named_values(rows, columns_of_output())
    return f"{readable(str(run.path.parent))}\n{named}"


def table(runs: Sequence[Trajectory]) -> str:
    """Format several runs, a line each."""
    rows = [_row(run) for run in runs]
    return text_table(HEADINGS, rows, width=columns_of_output(), left=2)


def _row(run: Trajectory) -> tuple[str, ...]:
    totals = run.totals
    whole = totals.compute_s + totals.wait_s + totals.transfer_s
    step_s = human_seconds(whole / totals.steps) if totals.steps else "-"
    reached, rounds = grouped(_reached(run)), grouped(exchanges(run))
    name, share = readable(str(run.path.parent)), _percent(run)
    return name, run.status, str(run.K), reached, rounds, _accuracy(run), step_s, share


def _reached(run: Trajectory) -> int:
    """Return the global step after the last recorded round."""
    ends = run.rounds.step_end
    return int(ends[-1]) if len(ends) else 0


def _quality(run: Trajectory) -> tuple[str, str]:
    """Return the accuracy, or the test loss where the task has none."""
    if without_accuracy(run):
        return "test loss", f"{run.series(TEST_LOSS).value[-1]:.4g}"
    return "test accuracy", _accuracy(run)


def _accuracy(run: Trajectory) -> str:
    """Return the last accuracy of the mean model; - without any."""
    if without_accuracy(run) or ACCURACY not in run.names() or not len(run.series(ACCURACY)):
        return "-"
    return f"{100 * run.series(ACCURACY).value[-1]:.2f} %"


def _percent(run: Trajectory, of: str = "") -> str:
    """Return the share of waiting and transferring in the mean worker's time; say if modelled."""
    totals = run.totals
    communicating = totals.wait_s + totals.transfer_s
    whole = totals.compute_s + communicating
    if not (whole > 0 and math.isfinite(whole)):
        return "-"
    mark = ", modelled" if run.attrs["clock"] == "modelled" else ""
    return f"{percent(communicating / whole)}{of}{mark}"


def _wall(run: Trajectory) -> str:
    """Return how long it took by the clock, all included; - where the record does not tell."""
    seconds = run.attrs["wall_s"]
    return f"{human_seconds(seconds)}, all included" if math.isfinite(seconds) else "-"


def _restarts(run: Trajectory) -> str:
    """Return how often the run was resumed: each time begins another file."""
    times = len(run.paths) - 1
    return ("", ", resumed once")[times] if times < 2 else f", resumed {times} times"


def parser() -> CommandParser:
    """Return the parser of the command."""
    made = CommandParser.documented(PROG, __doc__)
    made.add_argument("run", metavar="RUN", nargs="+", help="folder of a run, or its trajectory.h5")
    only = made.add_mutually_exclusive_group()
    only.add_argument("--status", action="store_true", help="only the status, one line a run")
    began_help = "only the step at which the last start began, one line a run"
    watch_help = "a line a run, and another when it has changed, until none is in progress"
    only.add_argument("--watch", action="store_true", help=watch_help)
    only.add_argument("--began", action="store_true", help=began_help)
    return made


if __name__ == "__main__":
    sys.exit(main())
