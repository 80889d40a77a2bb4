"""Arguments of `attach` as people write them: objects, their names, or their classes."""

from __future__ import annotations

import difflib
import pkgutil
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import Any

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.attach.rounds import FromFunction
from hpc_localsgd.compressors.base import Compression
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import Schedule
from hpc_localsgd.topology.base import Topology

# What can be named, as on the command line: the class, and where its files are.
_KINDS: dict[str, tuple[type, str]] = {
    "algorithm": (Algorithm, "hpc_localsgd.algorithms"),
    "schedule": (Schedule, "hpc_localsgd.schedules.local_steps"),
    "topology": (Topology, "hpc_localsgd.topology"),
    "compressor": (Compression, "hpc_localsgd.compressors"),
}
_EXAMPLES = {"algorithm": "LocalSGD()", "schedule": "every(16)"}


def algorithm_of(given: Any) -> Algorithm:
    """Make an algorithm of what was given: one, its name, its class, or None for LocalSGD.

    Raises:
        ConfigurationError: It is something else; says what to write.
    """
    made = LocalSGD() if given is None else _made("algorithm", given)
    if not isinstance(made, Algorithm):
        raise _wrong("algorithm", given)
    return made


def schedule_of(given: Any) -> Schedule:
    """Make a schedule of what was given: one, its name, its class, or a function (t, lr) -> H.

    Raises:
        ConfigurationError: It is something else; says what to write.
    """
    if isinstance(given, int) and not isinstance(given, bool):
        raise ConfigurationError(f"schedule={given}: write schedule=every({given})")
    made = _made("schedule", given)
    if isinstance(made, Algorithm) or not callable(made):
        raise _wrong("schedule", given)
    return made if isinstance(made, Schedule) else FromFunction(made)


def _made(kind: str, given: Any) -> Any:
    """Make an object of a name or a class; fields of its own that are names too."""
    base = _KINDS[kind][0]
    if isinstance(given, str):
        given = _class_named(kind, given)
    if isinstance(given, type) and issubclass(given, base):
        try:
            given = given()
        except TypeError as error:
            raise ConfigurationError(
                f"{kind}={given.__name__}: give its options ({error})"
            ) from error
    if isinstance(given, base) and is_dataclass(given) and not isinstance(given, type):
        names = {f.name for f in fields(given)} & set(_KINDS)
        parts = {name: getattr(given, name) for name in sorted(names)}
        new = {n: _made(n, p) for n, p in parts.items() if isinstance(p, str | type)}
        for name, part in {**parts, **new}.items():
            if part is not None and not isinstance(part, _KINDS[name][0]):
                raise _wrong(name, part)
        return replace(given, **new) if new else given
    return given


def _class_named(kind: str, name: str) -> type:
    """Return the class of a name, in the spelling of the command line or of the class.

    Raises:
        ConfigurationError: There is none; lists all.
    """
    known = _classes(kind)
    by_class = {each.__name__: each for each in known.values()}
    if name in known or name in by_class:
        return known.get(name) or by_class[name]
    near = difflib.get_close_matches(name.lower(), known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigurationError(f"unknown {kind} {name!r} - {guess}({', '.join(sorted(known))})")


def _classes(kind: str) -> dict[str, type]:
    base, where = _KINDS[kind]
    package = import_module(where)
    inside = pkgutil.iter_modules(getattr(package, "__path__", []))
    found = {}
    for module in [package, *(import_module(f"{where}.{m.name}") for m in inside)]:
        for name, item in vars(module).items():
            ours = isinstance(item, type) and item.__module__ == module.__name__
            if ours and issubclass(item, base) and not getattr(item, "__abstractmethods__", None):
                found[name if name.islower() else module.__name__.rsplit(".", 1)[1]] = item
    return found


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _wrong(kind: str, given: Any) -> ConfigurationError:
    """Make the error for an object of another kind."""
    for other, (base, _) in _KINDS.items():
        if isinstance(given, base) and other != kind:
            return ConfigurationError(
                f"{kind}={given!r} is {_article(other)} {other}: write {other}={given!r}"
            )
    example = _EXAMPLES.get(kind) or f"a name of {', '.join(sorted(_classes(kind)))}"
    return ConfigurationError(
        f"{kind}={given!r} is not {_article(kind)} {kind}: write {kind}={example}"
    )
