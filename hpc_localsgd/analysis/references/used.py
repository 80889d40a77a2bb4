"""Which papers a run used: read from its configuration and from what was measured of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hpc_localsgd.analysis.references.comes_from import COMES_FROM
from hpc_localsgd.analysis.references.papers import Reference, papers
from hpc_localsgd.trajectory import Trajectory

CHOICES = (
    "task",
    "algorithm",
    "schedule",
    "rate",
    "gradient",
    "optimizer",
    "topology",
    "compressor",
)

OLDER = re.compile(r"^(before_exchange/|as_trained/)+")  # what was measured, at another moment

# Beginning of the name of a series -> what it is a measurement of.
MEASURED = {
    "sharpness/trace": "sharpness",
    "sharpness/density": "density",
    "sharpness/snapshot_xi": "xi",
    "xi/": "xi",
    "gradient/effective_lr": "alpha_e",
    "alpha_e": "alpha_e",
}


@dataclass(frozen=True)
class Used:
    """One thing a run used, and the papers it comes from.

    Attributes:
        option: What was chosen: algorithm, schedule, topology, ...
        name: What it was: the class, or the measurement.
        papers: In the order in which they are to be named; empty for common knowledge.
        known: Whether the table knows it; a class of one's own it does not.
    """

    option: str
    name: str
    papers: tuple[Reference, ...]
    known: bool


def used_by(run: Trajectory, *others: Trajectory) -> list[Used]:
    """Return what a run used, each item once, in the order of its configuration.

    Args:
        run: The run.
        others: Files beside it whose series count too, such as that of its sharpness.

    Raises:
        TrajectoryError: The configuration cannot be read.
    """
    found = [*_chosen(run.config), *_options(run)]
    names = {OLDER.sub("", name) for each in (run, *others) for name in each.names()}
    for begin, what in MEASURED.items():
        if any(name.startswith(begin) for name in names):
            found.append(("measured", what))
    return [_used(option, name) for option, name in dict.fromkeys(found)]


def papers_of(used: list[Used]) -> list[Reference]:
    """Return every paper once, in order of first use."""
    return list(dict.fromkeys(paper for each in used for paper in each.papers))


def _used(option: str, name: str) -> Used:
    keys = COMES_FROM.get((option, name))
    known = keys is not None or option == "optimizer"
    return Used(option, name, tuple(papers()[key] for key in keys or ()), known)


def _chosen(value: Any, option: str = "") -> Iterator[tuple[str, str]]:
    """Yield (option, class) of every class the configuration names, at any depth."""
    if isinstance(value, dict):
        path = value.get("class_path")
        if path and option in (*CHOICES, "of"):  # a lazy topology is lazy of another
            yield "topology" if option == "of" else option, str(path).rpartition(".")[2]
        for name, inside in value.items():
            yield from _chosen(inside, option if name == "init_args" else name)
    elif option in CHOICES and isinstance(value, str) and "." in value and "/" not in value:
        yield option, value.rpartition(".")[2]


def _options(run: Trajectory) -> Iterator[tuple[str, str]]:
    """Yield (option, item) of what is used without being a class of its own."""
    if _any(run.config, "error_feedback", True):
        yield "option", "error_feedback"
    if any(_values(run.config, "moments_every")):
        yield "option", "moments_every"
    if any(_number(value) > 0 for value in _values(run.config, "warmup")):
        yield "option", "warmup"
    if str(run.attrs.get("world", "")).startswith("horovod"):
        yield "world", "horovod"


def _any(config: Any, name: str, wanted: Any) -> bool:
    return any(value == wanted for value in _values(config, name))


def _values(config: Any, name: str) -> Iterator[Any]:
    if isinstance(config, dict):
        for key, value in config.items():
            if key == name:
                yield value
            yield from _values(value, name)


def _number(duration: Any) -> float:
    """Return the number in a duration: 5 for `5%`, `5 epochs` and 5."""
    digits = str(duration).strip().partition(" ")[0].rstrip("%abcdefghijklmnopqrstuvwxyz")
    try:
        return float(digits or 0)
    except ValueError:
        return 0.0
