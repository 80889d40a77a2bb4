"""What a sweep is asked for, by a file or on the command line.

options: {task: fashion_mnist, workers: 8, steps: 600}     of every run
grid:
method:                                                  named choices of several options
parallel SGD: {algorithm: allreduce, schedule: every}
local SGD, H = 8: {schedule: every, schedule.steps: 8}
rate.lr: [0.05, 0.1]                                     values of one option
seeds: [0, 1, 2]
out: runs/sweep
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hpc_localsgd.commands.configuration import config_file, yaml_text
from hpc_localsgd.commands.configuration.names import nearest
from hpc_localsgd.commands.sweep.dotted_options import Flat, flat, merged, typed
from hpc_localsgd.commands.sweep.members import Axis
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory.safe_text import check_yaml

KEYS = ("options", "grid", "seeds", "out")
OURS = {
    "out": "the sweep gives every run a folder of its own below `out`",
    "resume": "the sweep continues by itself with what was begun",
    "overwrite": "the sweep keeps what is complete: remove a run's folder to have it done again",
    "seed": "seeds have a line of their own, `seeds: [0, 1, 2]`, or --seeds 0,1,2",
    "extend": "another length makes other runs",
    "resume_from_mean": "another number of workers makes other runs",
    "smoke": "a trial writes elsewhere: give fewer --steps and an --out of its own instead",
    "help": "see python -m hpc_localsgd.train --help",
}
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class SweepRequest:
    """A sweep as it was asked for.

    Attributes:
        options: Of every run.
        axes: Name of an axis of the grid -> name of a choice -> its options.
        seeds: At least one.
        out: Folder of the sweep.
    """

    options: Flat
    axes: dict[str, Axis]
    seeds: tuple[int, ...]
    out: Path


def read(path: str) -> dict[str, Any]:
    """Read a file that asks for a sweep.

    Args:
        path: Of a YAML file.

    Raises:
        ConfigurationError: It cannot be read, or has other keys.
    """
    found = config_file.read(path, _load)
    if found is None:
        raise ConfigurationError(f"{path}: there is no such file to read a sweep from")
    for key in found:
        if key not in KEYS:
            near = nearest(str(key), KEYS)
            guess = f" - did you mean {near!r}?" if near else ""
            raise ConfigurationError(
                f"{path}: a sweep has no {key!r}{guess} ({', '.join(KEYS)}); options of a run "
                "stand below `options`"
            )
    return found


def request(
    said: Mapping[str, Any],
    options: Flat,
    vary: Sequence[str] = (),
    seeds: str | None = None,
    out: str | None = None,
) -> SweepRequest:
    """Put together what a file and the command line say; the command line counts.

    Args:
        said: By the file; empty without one.
        options: Of every run, from the command line.
        vary: ``option=value,value``, each an axis of the grid.
        seeds: ``0,1,2`` or ``0-4``.
        out: Folder of the sweep.

    Raises:
        ConfigurationError: Something is of the wrong kind, or belongs to the sweep itself.
    """
    fixed = merged(flat(_mapping(said.get("options", {}), "options")), options)
    axes = {str(k): _axis(str(k), v) for k, v in _mapping(said.get("grid", {}), "grid").items()}
    axes |= dict(_varied(each) for each in vary)
    for options_of in (fixed, *(choice for axis in axes.values() for choice in axis.values())):
        _check_not_ours(options_of)
    folder = out or said.get("out")
    if not folder or not isinstance(folder, str):
        raise ConfigurationError("a sweep needs a folder: `out: runs/sweep` in its file, or --out")
    return SweepRequest(
        fixed, axes, _seeds(said.get("seeds", "0") if seeds is None else seeds), Path(folder)
    )


def _load(text: str) -> Any:
    check_yaml(text)
    return yaml_text.load(text)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"`{name}` of a sweep has lines like `name: value`, got {value!r}")
    return value


def _axis(name: str, value: Any) -> Axis:
    """Return the choices of an axis: named ones, or the values of the option it is called by."""
    if isinstance(value, Mapping) and value:
        return {str(k): flat(_mapping(v, f"{name}: {k}")) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        choices = [flat({name: each}) for each in value]
        labels = [_label(each) for each in value]
        if len(set(labels)) < len(labels):
            raise ConfigurationError(f"grid: {name} has a value twice: {', '.join(labels)}")
        return dict(zip(labels, choices, strict=True))
    raise ConfigurationError(
        f"grid: {name} wants a list of values, or named choices with the options of each, "
        f"got {value!r}"
    )


def _label(value: Any) -> str:
    return str(value.get("class_path", value)) if isinstance(value, Mapping) else typed(value)


def _varied(text: str) -> tuple[str, Axis]:
    """Return the axis of ``--vary option=value,value``."""
    name, equals, values = text.partition("=")
    name = name.strip("-").replace("-", "_")
    try:
        found = yaml_text.load(f"[{values}]") if equals and values else None
    except yaml.YAMLError:
        found = None
    if not name or not found:
        raise ConfigurationError(f"--vary {text}: type an option and values, schedule.steps=1,4,16")
    return name, _axis(name, found)


def _seeds(value: Any) -> tuple[int, ...]:
    """Return the seeds of ``[0, 1, 2]``, ``0,1,2`` or ``0-4``."""
    parts = value.split(",") if isinstance(value, str) else value
    found: list[int] = []
    for part in parts if isinstance(parts, Sequence) else [parts]:
        match = _RANGE.fullmatch(str(part).strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= last - first < MOST_SEEDS:
            raise ConfigurationError(f"seeds {value!r}: type them as 0,1,2 or 0-4")
        found += range(first, last + 1)
    if not found or len(set(found)) < len(found):
        raise ConfigurationError(f"seeds {value!r}: give at least one, and none twice")
    return tuple(found)


def _check_not_ours(options: Flat) -> None:
    """Refuse what the sweep itself decides.

    Raises:
        ConfigurationError: It is among the options.
    """
    for name, why in OURS.items():
        if name in options:
            raise ConfigurationError(f"{name} is not an option of a sweep's runs: {why}")
