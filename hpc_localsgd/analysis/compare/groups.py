"""Runs that differ in nothing but their seed are one group; groups are told apart by the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from hpc_localsgd.analysis.report.numbers import said
from hpc_localsgd.analysis.report.source import Source

# The seed makes repetitions; the others say where a run was computed or what else was kept of it.
NOT_THE_CONFIGURATION = (
    "seed",
    "device",
    "out",
    "figures",
    "evaluate_every",
    "evaluate_workers",
    "spread_every",
    "snapshot_every",
    "snapshot_workers",
    "snapshot_dtype",
    "checkpoint_every",
    "checkpoint_keep",
    "deviations_every",
    "uncertainty_every",
    "gradients_every",
    "probe_samples",
    "watchdog",
)


OURS = ("hpc_localsgd", "torch")  # packages that have one class of a name, among options
ABSENT = object()  # of a class that has no such option


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one configuration.

    Attributes:
        letter: A, B, C, ...: its name in tables and figures.
        runs: At least one, in the order they were given.
        config: What they share, without the seed.
    """

    letter: str
    runs: tuple[Source, ...]
    config: dict[str, Any]

    @property
    def counted(self) -> tuple[Source, ...]:
        """The runs that numbers are of: the complete ones, or all if none is."""
        return tuple(s for s in self.runs if s.run.status == "complete") or self.runs

    @property
    def standing(self) -> str:
        """``3 seeds``, ``2 seeds, 1 diverged``: how many runs, and those that did not end well."""
        complete = [s for s in self.runs if s.run.status == "complete"]
        parts = [f"{len(complete)} seed{'' if len(complete) == 1 else 's'}"] if complete else []
        for status in ("stopped", "diverged", "running"):
            count = sum(s.run.status == status for s in self.runs)
            parts += [f"{count} {status}"] if count else []
        return ", ".join(parts)


def grouped_runs(sources: Sequence[Source]) -> list[SeedGroup]:
    """Group runs by configuration, in the order of their first runs.

    Args:
        sources: The runs.

    Raises:
        TrajectoryError: A configuration cannot be read.
    """
    found: dict[str, list[Source]] = {}
    configs = {}
    for source in sources:
        config = _config(source)
        key = json.dumps(config, sort_keys=True, default=str)
        found.setdefault(key, []).append(source)
        configs[key] = config
    return [
        SeedGroup(_letters(i), tuple(runs), configs[key])
        for i, (key, runs) in enumerate(found.items())
    ]


def differences(groups: Sequence[SeedGroup]) -> dict[str, list[str]]:
    """Return the options in which the groups differ: option -> its value in each group.

    Options of one class are compared one by one (``schedule.every``); where the classes themselves
    differ, they are told whole.

    Args:
        groups: At least one.
    """
    return dict(_differing("", [group.config for group in groups]))


def _config(source: Source) -> dict[str, Any]:
    whole = plain(source.run.config)
    config = {k: v for k, v in whole.items() if k not in NOT_THE_CONFIGURATION}
    # What was left to the launcher is settled in the record.
    world = str(source.run.attrs["world"]).partition("(")[0]
    return {**config, "workers": source.run.K, "world": world}


def plain(value: Any) -> Any:
    """Normalise a part of a configuration, so that equal meanings compare equal, however given.

    A class is known by its package and name: an option that is left at its default may name where
    it is defined, one that is typed from where it is exported. 8, 8.0 and "8" are one number.

    Args:
        value: Of the configuration.
    """
    if isinstance(value, dict):
        made = {key: plain(v) for key, v in value.items()}
        if isinstance(made.get("class_path"), str):
            first, _, rest = made["class_path"].partition(".")
            if first in OURS:
                made["class_path"] = f"{first}.{rest.rpartition('.')[2]}"
            made["init_args"] = made.get("init_args") or {}
        return made
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return _number(value)


def _number(value: Any) -> Any:
    """Return 8 for 8.0 and "8"; everything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number


def _differing(name: str, values: Sequence[Any]) -> Iterator[tuple[str, list[str]]]:
    if all(value == values[0] for value in values):
        return
    if not all(isinstance(value, dict) for value in values):
        yield name, [_shown(value) for value in values]
        return
    paths = [value.get("class_path") for value in values]
    if name and any(path != paths[0] for path in paths):
        yield name, [_shown(value) for value in values]
        return
    inside = [value.get("init_args") or {} if "class_path" in value else value for value in values]
    for key in dict.fromkeys(key for value in inside for key in value):
        dotted = f"{name}.{key}" if name else key
        yield from _differing(dotted, [value.get(key, ABSENT) for value in inside])


def _shown(value: Any) -> str:
    """Return a value as text: ``none`` where the option has none, "" if there is no such option."""
    if value is ABSENT:
        return ""
    return "none" if value is None else said(value)


def _letters(i: int) -> str:
    """Return the i-th name of A, ..., Z, AA, AB, ..."""
    first, second = divmod(i, 26)
    return (ascii_uppercase[first - 1] if first else "") + ascii_uppercase[second]
