"""The runs of an experiment: the package's trainer on a grid, and the records of it.

They are done one after another in this process: starting Python and torch for each takes longer
than most of the runs. Under a launcher every rank does them together.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import ranks
from hpc_localsgd.commands.sharpness.command import main as sharpness
from hpc_localsgd.commands.sweep import manifest, request
from hpc_localsgd.commands.sweep.members import Member, members
from hpc_localsgd.commands.train import main as train
from hpc_localsgd.trajectory import Trajectory, TrajectoryError

Of = Callable[[Trajectory], Any]
ENDED = {0: "complete", 3: "diverged"}
SMALL = {  # what no experiment needs beside the series and snapshots that it asks for
    "figures": False,
    "evaluate_every": "100%",
    "spread_every": 0,
    "checkpoint_every": 0,
}


class Failed(Exception):
    """Runs were refused, stopped or failed: the same command goes on."""


class Runs:
    """Does runs and gives their records.

    Attributes:
        count: Runs that were asked for so far.
        diverged: Those of them that diverged: their numbers are NaN, and they are reported.
        minutes: Of a processor that the runs took, those of earlier calls included.
    """

    def __init__(self, out: Path) -> None:
        """Say in which folder; each sweep has a folder in it."""
        self._out = out
        self.count, self.diverged, self.minutes = 0, list[str](), 0.0

    def sweep(
        self, name: str, options: Mapping[str, Any], grid: Mapping[str, Any], seeds: int
    ) -> dict[str, list[Trajectory]]:
        """Do the runs that are left, and give the records: choices -> one for each seed.

        Args:
            name: Of the folder.
            options: Of every run.
            grid: As in the file of a sweep.
            seeds: How many, from 0.

        Raises:
            Failed: One of them did not end.
        """
        out = self._out / name
        said = {"options": {**SMALL, **options}, "grid": grid, "seeds": list(range(seeds))}
        asked = request.request(said, {}, out=str(out))
        all_of_it = members(asked.options, asked.axes, asked.seeds)
        if ranks.first():
            manifest.write(all_of_it, out)
        for i, member in enumerate(all_of_it):
            if _status(out / member.name) is None:
                _train(member, out, f"{name}, {i + 1} of {len(all_of_it)}: {member.title}")
        ranks.barrier()
        found: dict[str, list[Trajectory]] = {}
        for member in all_of_it:
            run = Trajectory(out / member.name)
            found.setdefault(", ".join(member.labels.values()) or "all", []).append(run)
            self.diverged += [f"{name}: {member.title}"] if run.status == "diverged" else []
        self.count += len(all_of_it)
        self.minutes += sum(_seconds(out).values()) / 60
        return found


def _status(folder: Path) -> str | None:
    """Return how a run ended; None if it did not."""
    try:
        status = Trajectory(folder).status
    except (TrajectoryError, OSError):
        return None
    return status if status in ENDED.values() else None


def _train(member: Member, out: Path, title: str) -> None:
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        status = train(member.words(out))
    if status not in ENDED:
        raise Failed(f"{title}: status {status}; the same command goes on")
    took = time.process_time() - began
    if ranks.first():
        seconds = _seconds(out) | {member.name: round(took, 2)}
        (out / "seconds.json").write_text(json.dumps(seconds))
        print(f"{title}: {ENDED[status]}, {took:.1f} s", flush=True)


def _seconds(out: Path) -> dict[str, float]:
    """Return the seconds of a processor that each run took: name -> seconds."""
    file = out / "seconds.json"
    found: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    return found


def values(runs: Mapping[str, Sequence[Trajectory]], of: Of) -> dict[str, list[Any]]:
    """Give a number of each run, label -> one for each seed; NaN for runs that diverged."""
    return {
        label: [of(run) if run.status == "complete" else math.nan for run in same]
        for label, same in runs.items()
    }


def last(name: str) -> Of:
    """Give a reader of the last value of a series."""
    return lambda run: float(run.series(name).value[-1])


def sharpness_of(run: Trajectory, *words: str) -> Trajectory:
    """Give the curvature at a run's snapshots, measured if it is not there yet.

    Args:
        run: The record.
        words: Options of `sharpness`.

    Raises:
        Failed: It could not be measured.
    """
    folder, said = Path(run.path).parent, io.StringIO()
    there = (folder / "sharpness.h5").exists()
    ranks.barrier()
    if not there:
        with contextlib.redirect_stdout(said):
            status = sharpness([str(folder), *words])
        ranks.barrier()
        if status:
            raise Failed(f"no curvature of {folder}: {said.getvalue().strip()}")
    return Trajectory(folder / "sharpness.h5", segments=False)


def trace(run: Trajectory) -> float:
    """Return tr H at the last snapshot of a run, on all training samples, to a percent."""
    words = ("--steps=last", "--eigenvalues=1", "--trace_tolerance=0.01", "--samples=0")
    found = sharpness_of(run, *words, "--trace_probes=2000", "--direction_probes=1")
    return float(found.series("sharpness/trace").value[-1])
