"""The list of a sweep's runs in its folder, from which tables and figures know what is what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpc_localsgd.commands.sweep.members import Member
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import regular_file
from hpc_localsgd.trajectory.whole_file import put_whole

FILE, VERSION = "sweep.json", 1
MOST_BYTES = 1 << 26


def write(members: Sequence[Member], out: Path) -> Path:
    """Write the list of runs, in place of the one before; it names no folder but theirs.

    Args:
        members: The runs.
        out: Folder of the sweep, made if missing.

    Raises:
        ConfigurationError: It cannot be written, or a file of that name is no such list.
    """
    file = out / FILE
    if file.exists():
        read(out)  # refuses what is no list, as a grid of that name
    said = {"version": VERSION, "runs": [asdict(member) for member in members]}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with put_whole(file) as unborn:
            unborn.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {file}: {error.strerror}; give --out a folder that can be written"
        ) from error
    return file


def read(out: Path) -> list[Member]:
    """Read the list of runs of a sweep.

    Args:
        out: Folder of the sweep.

    Raises:
        ConfigurationError: There is none, or none of this version.
    """
    file = out / FILE
    try:
        said = json.loads(regular_file.read(str(file), MOST_BYTES))
        if said["version"] != VERSION:
            raise ValueError(f"version {said['version']}, where {VERSION} is read here")
        return [_member(each) for each in said["runs"]]
    except OSError as error:
        raise ConfigurationError(
            f"{out} is not the folder of a sweep: {FILE} cannot be read there"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} is not the list of a sweep's runs: {error}") from error


def _member(said: dict[str, Any]) -> Member:
    labels, options = ({str(k): str(v) for k, v in said[k].items()} for k in ("labels", "options"))
    name = str(said["name"])
    if Path(name).name != name:
        raise ValueError(f"a run in {name!r}")
    return Member(labels, int(said["seed"]), options, name)
