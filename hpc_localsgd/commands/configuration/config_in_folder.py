"""`config.yaml` in the folder of a run: all its options, as they were resolved."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from hpc_localsgd.run.stderr import say
from hpc_localsgd.trajectory import Trajectory, TrajectoryError, segment_paths
from hpc_localsgd.trajectory.whole_file import put_whole

FILE_NAME = "config.yaml"


def write_config(out: Path, text: str) -> None:
    """Write the options of a run; a file of a user's own there gets another name.

    That may be the very file of `--config`, with comments that are nowhere else.

    Args:
        out: The folder; the record in it is of the run before, if any.
        text: The options.
    """
    file = out / FILE_NAME
    there = file.read_bytes() if file.exists() else text.encode()
    if there != text.encode() and there != _before(out).encode():
        aside = next(p for i in count(1) if not (p := out / f"config-{i}.yaml").exists())
        file.rename(aside)
        say(f"{file} as it was is {aside.name} now: {FILE_NAME} has all options of the run")
    with put_whole(file) as unborn:
        unborn.write_text(text, encoding="utf-8")


def _before(out: Path) -> str:
    """Return the options of the run there; nothing without a record that can be read."""
    try:
        segments = segment_paths(out)
        return Trajectory(segments[-1], segments=False).config_text if segments else ""
    except TrajectoryError:
        return ""
