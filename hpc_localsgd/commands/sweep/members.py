"""The runs of a sweep: every choice of its grid with every seed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hpc_localsgd.commands.sweep.dotted_options import Flat, merged, words
from hpc_localsgd.errors import ConfigurationError

MOST = 10_000  # runs of a sweep
_NAME = 100  # letters, at most, of what is readable in the name of a folder
Axis = Mapping[str, Flat]


@dataclass(frozen=True)
class Member:
    """A run of a sweep.

    Attributes:
        labels: Name of an axis of the grid -> name of the choice.
        seed: Of the run.
        options: All its options but the folder and the seed.
        name: Of its folder. It follows from the options alone, so that a run keeps its folder when
            the grid around it changes.
    """

    labels: dict[str, str]
    seed: int
    options: Flat
    name: str

    @property
    def label(self) -> str:
        """Choices in one text, values with their option, without the seed: ``gossip, lr 0.1``."""
        choices = (
            f"{axis.rpartition('.')[2]} {label}" if axis in self.options else label
            for axis, label in self.labels.items()
        )
        return ", ".join(choices) or "all"

    @property
    def title(self) -> str:
        """Choices and seed."""
        return f"{self.label}, seed {self.seed}"

    def words(self, out: Path) -> list[str]:
        """Return the options of train for it.

        Args:
            out: Folder of the sweep.
        """
        rest = [f"--seed={self.seed}", f"--out={out / self.name}", "--resume=auto"]
        return [*words(self.options), *rest]


def members(fixed: Flat, axes: Mapping[str, Axis], seeds: Sequence[int]) -> list[Member]:
    """Return all runs: the seeds of a choice after one another, in the order of the grid.

    Args:
        fixed: Options of every run.
        axes: Name of an axis -> name of a choice -> its options.
        seeds: At least one.

    Raises:
        ConfigurationError: They are too many.
    """
    count = math.prod(len(axis) for axis in axes.values()) * len(seeds)
    if count > MOST:
        raise ConfigurationError(f"the grid has {count:,} runs, and a sweep at most {MOST:,}")
    return [_member(labels, options, s) for labels, options in _choices(fixed, axes) for s in seeds]


def _choices(fixed: Flat, axes: Mapping[str, Axis]) -> Iterator[tuple[dict[str, str], Flat]]:
    """Yield each combination of choices, with the options that it amounts to."""
    for combination in product(*(axis.items() for axis in axes.values())):
        options = fixed
        for _, more in combination:
            options = merged(options, more)
        yield dict(zip(axes, (label for label, _ in combination), strict=True)), options


def _member(labels: dict[str, str], options: Flat, seed: int) -> Member:
    parts = [_readable(axis, label) for axis, label in labels.items()]
    said = json.dumps([sorted(options.items()), _of_file(options), seed])
    tag = hashlib.sha256(said.encode()).hexdigest()[:8]
    return Member(labels, seed, options, f"{'_'.join([*parts, f'seed-{seed}'])[:_NAME]}-{tag}")


def _of_file(options: Flat) -> str:
    """Return the text of the file of options, which a run is of as much as of the others."""
    file = options.get("config")
    try:
        return Path(file).read_text(encoding="utf-8") if file else ""
    except (OSError, UnicodeDecodeError, ValueError):
        return ""  # the check of the member says so


def _readable(axis: str, label: str) -> str:
    """Return a choice as a part of the name of a folder; a value says of which option it is."""
    text = label if axis == "method" else f"{axis.rpartition('.')[2]}={label}"
    return re.sub(r"[^A-Za-z0-9.=+]+", "-", text).strip("-.") or "x"
