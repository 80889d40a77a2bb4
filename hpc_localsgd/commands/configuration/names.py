"""Short names of what can be chosen: `--algorithm local_sgd` is the class in that file."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from typing import Any, get_type_hints

import torch

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.compressors import Compression
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.gradients.base import GradientAt
from hpc_localsgd.schedules.local_steps import Schedule
from hpc_localsgd.schedules.rates import Rate
from hpc_localsgd.tasks.base import TaskSpec
from hpc_localsgd.topology import Topology

# Option -> (base class, where its classes live). A package's files are its registry.
CHOICES: dict[str, tuple[type, str]] = {
    "task": (TaskSpec, "hpc_localsgd.tasks"),
    "algorithm": (Algorithm, "hpc_localsgd.algorithms"),
    "gradient": (GradientAt, "hpc_localsgd.gradients"),
    "schedule": (Schedule, "hpc_localsgd.schedules"),
    "rate": (Rate, "hpc_localsgd.schedules.rates"),
    "topology": (Topology, "hpc_localsgd.topology"),
    "compressor": (Compression, "hpc_localsgd.compressors"),
}
NO_OPTIONS = ("params", "lr")  # parameters of an optimiser that are set elsewhere


@cache
def choices(option: str) -> dict[str, str]:
    """Map the short names of everything an option can be to class paths."""
    base, where = CHOICES[option]
    found = {}
    for module in _modules(where):
        for name, item in vars(module).items():
            ours = isinstance(item, type) and item.__module__ == module.__name__
            if ours and issubclass(item, base) and not getattr(item, "__abstractmethods__", None):
                short = name if name.islower() else module.__name__.rsplit(".", 1)[1]
                found[short] = f"{module.__name__}.{name}"
                give_types(item)
    return found


def give_types(item: Any) -> None:
    """Replace the annotations of a class's arguments by the types that they name.

    The parser looks names up in the module of a dataclass alone. Where an annotation of a base is
    not found there, it takes every value for every argument of the class, without a word.
    """
    made = item.__init__
    with suppress(NameError, TypeError):  # of a user's own class: the parser may know better
        types = get_type_hints(item if is_dataclass(item) else made)
        for name in set(types) & set(getattr(made, "__annotations__", ())):
            made.__annotations__[name] = types[name]


def _modules(where: str) -> list[Any]:
    package = import_module(where)
    inside = pkgutil.iter_modules(getattr(package, "__path__", []))
    return [package, *(import_module(f"{where}.{m.name}") for m in inside)]


def short_name(option: str, value: Any) -> Any:
    """Return the class path for a short name, if `option` takes a class.

    Raises:
        ConfigurationError: No such name; lists the known ones.
    """
    option = option.removesuffix(".help").rpartition(".")[2]  # algorithm.topology is a topology
    if option not in CHOICES or not isinstance(value, str) or not value.isidentifier():
        return value
    if value in ("null", "None"):
        return value
    known = choices(option)
    if value in known:
        return known[value]
    by_class = {path.rsplit(".", 1)[1]: path for path in known.values()}
    if value in by_class:
        return by_class[value]
    raise ConfigurationError(unknown(option, value, known, by_class))


def unknown(option: str, value: str, known: Iterable[str], also: Iterable[str] = ()) -> str:
    """Answer a name that does not exist with the nearest one, and all of them."""
    near = nearest(value, known) or nearest(value, also)
    guess = f" - did you mean {near!r}?" if near else ""
    return f"unknown {option} {value!r}{guess} ({', '.join(sorted(known))})"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant, ignoring capitals."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None


def optimizers() -> list[str]:
    """Return the names of torch's optimisers."""
    base = torch.optim.Optimizer
    found = {k: v for k, v in vars(torch.optim).items() if isinstance(v, type) and v is not base}
    return sorted(name for name, item in found.items() if issubclass(item, base))


def class_at(path: str) -> Any:
    """Import what a dotted path names."""
    module, name = path.rsplit(".", 1)
    return getattr(import_module(module), name)


def name_at(option: str, path: str) -> str:
    """Return the name a user types for a class path, even if nothing has that path."""
    known = choices(option) if option in CHOICES else {}
    module, _, name = path.rpartition(".")
    item = getattr(sys.modules.get(module), name, None)  # a record's path is never imported
    same = [short for short, other in known.items() if class_at(other) is item]
    return same[0] if same else name


def options_at(path: str) -> list[str]:
    """Return the names of the options of a class."""
    parameters = inspect.signature(class_at(path)).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    named = [name for name in named if not name.startswith("_")]
    return [name for name in named if name not in NO_OPTIONS or not _optimizer(path)]


def _optimizer(path: str) -> bool:
    item = class_at(path)
    return isinstance(item, type) and issubclass(item, torch.optim.Optimizer)
