"""Values that have the type of their option and still make no sense, of every option alike."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from hpc_localsgd.commands.configuration.names import class_at
from hpc_localsgd.errors import ConfigurationError

MOST = 2**53  # whole numbers up to here are exact everywhere
MOST_WORKERS = 65_536
LARGEST = 1e30  # far from where float32, in which most of the work is done, overflows
_MOMENTA = {"momentum", "beta", "betas"}
_SHARES = {"label_smoothing", "label_noise", "warmup_from", "factor", "dampening", "pull"}
_SOME = {
    *("hidden", "width", "layers", "heads", "length", "groups", "ghost", "classes", "size", "dim"),
    *("vocabulary", "batchnorm_batches", "accumulate", "batch_per_worker", "probe_samples"),
}
_PACKAGES = ("hpc_localsgd.", "torch.")  # whose arguments are bounded by their names
_TEXTS = {"out", "device", "fabric"}


def check(options: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Check every value of the parsed options, those within classes too.

    Args:
        options: Name -> value; of a class its path and arguments, as a parser gives them.
        hints: Name -> type, as far as it is known.

    Raises:
        ConfigurationError: One is empty, not finite, too large, or outside of what its name means.
    """
    for name, value in options.items():
        for path, inner, hint, named in _leaves(name, value, hints.get(name)):
            if fault := _fault(named, inner, hint):
                option = "--" + path.replace("_", "-")
                raise ConfigurationError(f"{option} {_shown(inner)}: {fault}")


def _fault(name: str, value: Any, hint: Any) -> str | None:
    """Return what is wrong with a value; None if nothing is."""
    if value is None:
        return None if hint is None or _may_be_none(hint) else "give it a value, or leave it out"
    if isinstance(value, str):
        return "give it a value" if name in _TEXTS and not value.strip() else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return "give a finite number"
    if isinstance(value, float) and abs(value) > LARGEST:
        return f"give a number of at most {LARGEST:.0e}"
    if isinstance(value, int) and abs(value) >= MOST:
        return "give a number below 2^53"
    if name in _MOMENTA and not 0 <= value < 1:
        return "give a number from 0 to below 1"
    if name in _SHARES and not 0 <= value <= 1:
        return "give a number from 0 to 1"
    if name == "test_fraction" and not 0 < value < 1:
        return "give a number between 0 and 1"
    if name == "workers" and value > MOST_WORKERS:
        return f"give at most {MOST_WORKERS}"
    if name in _SOME and value < 1:
        return "give at least 1"
    return None


def _leaves(
    path: str, value: Any, hint: Any, known: bool = True
) -> Iterator[tuple[str, Any, Any, str]]:
    """Yield every value within a value, with its path and type, and the name that bounds it.

    Args:
        path: Of the value.
        value: Perhaps a class with arguments.
        hint: Its type.
        known: Whether names mean what they mean here: in a class of a user's own, `beta` may be
            anything.
    """
    inside = value if isinstance(value, Mapping) else getattr(value, "__dict__", None)
    if inside is not None and "class_path" in inside:
        arguments = inside.get("init_args")
        named = arguments if isinstance(arguments, Mapping) else getattr(arguments, "__dict__", {})
        hints = _hints(inside["class_path"])
        known = inside["class_path"].startswith(_PACKAGES)
        for name, each in named.items():
            yield from _leaves(f"{path}.{name}", each, hints.get(name), known)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(path, each, None, known)
    else:
        yield path, value, hint, path.rpartition(".")[2] if known else ""


def _hints(path: str) -> dict[str, Any]:
    """Map argument to type; for a dataclass only to whether it may be None, checked by its text."""
    if is_dataclass(class_at(path)):
        told = {field.name: str(field.type) for field in fields(class_at(path))}
        return {name: Any if "None" in text else object for name, text in told.items()}
    try:
        return typing.get_type_hints(class_at(path).__init__)
    except (NameError, TypeError, AttributeError, ImportError):
        return {}


def _may_be_none(hint: Any) -> bool:
    if hint is Any or hint is None or hint is type(None):
        return True
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_may_be_none(each) for each in typing.get_args(hint))
    return False


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return repr(value) if isinstance(value, str) else f"{value}"
