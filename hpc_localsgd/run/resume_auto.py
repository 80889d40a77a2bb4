"""What `--resume auto` does with a folder that has no complete checkpoint.

It may start the run over, but never in the place of anything that a user may want back: a
finished record, one that cannot be read, one of another run, shards whose fellows may be elsewhere.

    nothing there                                  a new run
    a record that was cut off, no shard at all     starts over in its place: it was that short
    checkpoints that are partial                   a job was killed in its first: moved away
    more than two, which all lack the same ranks   refused: shards of those ranks go elsewhere
    a record that is complete, unreadable, or of   refused
    another configuration
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.checkpoint.listing import (
    all_folders,
    expected,
    missing,
    never_there,
    number,
    shard_name,
)
from hpc_localsgd.run.stderr import say
from hpc_localsgd.trajectory import Trajectory, TrajectoryError, segment_paths

FIRST = 2  # partial checkpoints, at most, of a job that was killed while it wrote its first
ASIDE = "cut-off-{}"  # in the folder of the run: what such a job left
ASIDES = 3


def anew(out: Path, check_same: Callable[[], None]) -> Literal["new", "overwrite"]:
    """Return how to begin in a folder without a complete checkpoint.

    Args:
        out: The folder.
        check_same: Raises if its record is of a run with other options.

    Raises:
        ConfigurationError: What is there might be missed.
    """
    partial = [f for f in all_folders(out / "checkpoints") if expected(f) > 0]
    segments = segment_paths(out)
    if not segments and not any((out / "checkpoints").glob("*")):
        return "new"
    if segments:
        _check_record(out)
        check_same()
    if (len(partial) > FIRST and never_there(partial)) or (partial and not segments):
        raise ConfigurationError(_are_partial(out, partial))
    if not partial:
        say(f"{out} has no checkpoint: the run starts over and replaces its record")
        return "overwrite"
    _put_aside(out)
    return "new"


def _check_record(out: Path) -> None:
    """Check that the record there is one of a run that was cut off.

    Raises:
        ConfigurationError: The run was finished, or the record cannot be read.
    """
    try:
        record = Trajectory(out)
        status, steps = record.status, len(record.rounds) and int(record.rounds.step_end[-1])
    except (TrajectoryError, OSError) as error:
        raise ConfigurationError(
            f"cannot --resume: {error}. Nothing was changed; give another --out, or --overwrite"
        ) from error
    if status in ("complete", "diverged"):
        raise ConfigurationError(
            f"{out} holds a run that is {status}, of {steps} steps, and no checkpoint to resume "
            "from: put back its checkpoints, give another --out, or --overwrite to replace it"
        )


def _are_partial(out: Path, partial: list[Path]) -> str:
    newest = partial[-1]
    names = ", ".join(shard_name(r, expected(newest)) for r in missing(newest)[:8])
    return (
        f"none of the {len(partial)} checkpoints in {out / 'checkpoints'} is complete: that of "
        f"step {number(newest)} lacks {names}. Were they written to another host's disk, as --out "
        "is not a folder that all hosts share? Put them there, give another --out, or --overwrite"
    )


def _put_aside(out: Path) -> None:
    """Move a run that was cut off in its first checkpoint into a folder of its own.

    Raises:
        ConfigurationError: That has been done too often.
    """
    places = [out / ASIDE.format(i) for i in range(1, ASIDES + 1)]
    place = next((p for p in places if not p.exists()), None)
    if place is None:
        raise ConfigurationError(
            f"{ASIDES} jobs were cut off in their first checkpoint ({places[0]} to "
            f"{places[-1].name}), and so was the last: see why, or remove those to try again"
        )
    place.mkdir()
    for old in (*segment_paths(out), out / "checkpoints"):
        shutil.move(old, place / old.name)
    say(f"{out} has no complete checkpoint: moved to {place}; it starts over")
