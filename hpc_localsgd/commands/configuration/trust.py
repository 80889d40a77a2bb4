"""What a configuration may name: classes of the expected kinds, and whose code they may be.

A command line and a user's own YAML file may name the user's own classes, whose modules are
then imported. What a run has recorded may come from anyone: it names what this package and torch
ship, unless the user trusts another module by name. In neither case is anything called to find
out what it is, and nothing of Python's own library is imported, which has no class of our kinds.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jsonargparse import _common, set_parsing_settings

from hpc_localsgd.commands.configuration.config_file import values_of
from hpc_localsgd.commands.configuration.names import (
    CHOICES,
    choices,
    class_at,
    give_types,
    optimizers,
    short_name,
    unknown,
)
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory.moved_classes import where_now

KINDS: dict[str, type] = {
    **{option: base for option, (base, _) in CHOICES.items()},
    "optimizer": torch.optim.Optimizer,
}
HELP = (
    "A module, or a class in it, that a recorded configuration may name and that may then run as "
    "code; repeatable. Without it such a configuration names only what this package and torch ship."
)
_OURS = ("hpc_localsgd", "torch")
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_KEPT = ("import_path_verdicts", "import_paths_enforced")  # of jsonargparse's settings


@dataclass
class _Guard:
    """Origin of the text being parsed, and the modules that the user trusts."""

    recorded: bool = False
    trusted: tuple[str, ...] = ()


_GUARD: ContextVar[_Guard | None] = ContextVar("guard", default=None)


@contextmanager
def guarded(trusted: Sequence[str] = (), recorded: bool = False) -> Iterator[None]:
    """Let a parser import what `vet` has accepted, and nothing else.

    Inside another guard there is nothing to do: that one holds.

    Args:
        trusted: Modules that a record may name.
        recorded: Whether everything that is parsed was recorded, and not written by the user.
    """
    if _GUARD.get() is not None:
        yield
        return
    settings: dict[str, Any] = _common.parsing_settings
    kept = {name: settings[name] for name in _KEPT}
    token = _GUARD.set(_Guard(recorded, tuple(trusted)))
    try:
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(_shipped()))
        yield
    finally:
        _GUARD.reset(token)
        settings.update(kept)  # they are the process's, and other parsers may live in it


def look_at(path: str) -> None:
    """Treat as recorded an options file that lies beside the record of a run."""
    guard = _GUARD.get()
    if guard is not None and os.path.exists(Path(path).with_name("trajectory.h5")):
        guard.recorded = True


def check_whole(value: Any) -> Any:
    """Check that what was loaded from a recorded text leads to no other files; return it.

    Raises:
        ConfigurationError: It would.
    """
    guard = _GUARD.get()
    if guard is not None and guard.recorded and isinstance(value, dict) and "config" in value:
        raise ConfigurationError("a recorded configuration is whole: it names no other by `config`")
    return value


def trusted_in(words: Sequence[str]) -> list[str]:
    """Return the modules that a command line trusts; a file cannot name any."""
    return values_of("--trust", words)


def chosen(option: str, value: Any) -> Any:
    """Return the class path that an option's value means, if the option takes a class; check it.

    Raises:
        ConfigurationError: No such class, or one that may not be named.
    """
    last = option.removesuffix(".help").removesuffix(".class_path").rpartition(".")[2]
    value = short_name(last, where_now(value) if isinstance(value, str) else value)
    if last in KINDS and isinstance(value, str):
        guard = _GUARD.get()
        of_person = guard is None or not guard.recorded
        if _DOTTED.fullmatch(value) and not (of_person and Path(value).is_file()):
            vet(last, value)
        elif not of_person and not value.isidentifier():
            raise ConfigurationError(f"a recorded {last} is a class, not {value!r}")
    return value


def vet(option: str, path: Any) -> None:
    """Refuse a class path that may not be named, before anything untrusted is imported.

    Args:
        option: What takes the class, the last part of its name. Of options that are not known here
            any class will do, and the parser looks at its kind.
        path: As written; without a dot it is a short name, which is looked up elsewhere.

    Raises:
        ConfigurationError: It is not a class of the kind, cannot be imported, or is not trusted.
    """
    if not isinstance(path, str):
        raise ConfigurationError(f"class_path wants the name of a class, got {path!r}")
    if not _DOTTED.fullmatch(path):
        if path.isidentifier():
            return
        raise ConfigurationError(f"class_path wants the name of a class, got {path!r}")
    guard = _GUARD.get() or _Guard()
    top = path.partition(".")[0]
    if top in sys.stdlib_module_names:
        raise ConfigurationError(_no_such_class(option, path))
    if guard.recorded and top not in _OURS and not _within(path, guard.trusted):
        raise ConfigurationError(
            f"it names {path}, which neither this package nor torch ships, and whose module would "
            f"run as code: if you know what is in it, add --trust {path.rpartition('.')[0]}"
        )
    item = _item(option, path, may_import=not (guard.recorded and top in _OURS))
    kinds = (KINDS[option],) if option in KINDS else tuple(KINDS.values())
    any_class = option not in KINDS and not (guard.recorded and top in _OURS)
    if not isinstance(item, type) or not (any_class or issubclass(item, kinds)):
        raise ConfigurationError(_no_such_class(option, path))
    give_types(item)
    if _GUARD.get() is not None:
        names = [path, *_names(item), *([] if top in _OURS else _packages(top, path, guard))]
        set_parsing_settings(import_path_allowlist=names)


def _packages(top: str, path: str, guard: _Guard) -> list[str]:
    """Return the packages in which a user's class may find further classes named by its options."""
    return [each for each in guard.trusted if _within(path, [each])] if guard.recorded else [top]


def _within(path: str, modules: Sequence[str]) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def _item(option: str, path: str, may_import: bool) -> Any:
    """Return what a dotted path names; None if nothing loaded has that name."""
    module, _, name = path.rpartition(".")
    if not may_import:
        return getattr(sys.modules.get(module), name, None)
    try:
        loaded = import_module(module)
    except Exception as error:
        raise ConfigurationError(
            f"{option or 'class_path'} {path}: cannot import {module}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return getattr(loaded, name, None)


def _no_such_class(option: str, path: str) -> str:
    """Explain that something is not a class of the kind, and list those that are."""
    if option not in KINDS:
        return f"class_path {path} is not a class that can be an option here"
    known = sorted(choices(option)) if option in CHOICES else optimizers()
    if path.partition(".")[0] in _OURS:
        return unknown(option, path.rpartition(".")[2], known)
    module, _, name = path.rpartition(".")
    if (loaded := sys.modules.get(module)) is not None and not hasattr(loaded, name):
        close = get_close_matches(name, [each for each in dir(loaded) if each[0] != "_"], n=1)
        return f"{option} {path}: {module} has no {name}" + "".join(
            f" - did you mean {module}.{each}?" for each in close
        )
    kind = KINDS[option]
    return (
        f"{option} {path} is not a class derived from {kind.__module__}.{kind.__qualname__}: type "
        f"one of {', '.join(known)}, or the path of such a class of your own"
    )


@cache
def _shipped() -> tuple[str, ...]:
    """Return every name of every class of our kinds that this package and torch ship."""
    ours = [class_at(path) for option in CHOICES for path in choices(option).values()]
    torchs = [getattr(torch.optim, name) for name in optimizers()]
    return tuple(dict.fromkeys(name for item in (*ours, *torchs) for name in _names(item)))


def _names(item: type) -> list[str]:
    """Return the names of a class: in its module, and in the packages above that export it."""
    parts = item.__module__.split(".")
    modules = [".".join(parts[: i + 1]) for i in range(len(parts))]
    there = [m for m in modules if getattr(sys.modules.get(m), item.__name__, None) is item]
    return [f"{module}.{item.__name__}" for module in there]
