"""What files and a command line give together: a class named later brings its own arguments.

jsonargparse keeps the arguments of a class wherever the class that takes its place has one of the
same name: AdamW would get SGD's weight decay, and a constant rate the warm-up of a cosine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
import yaml

from hpc_localsgd.commands.configuration import config_file
from hpc_localsgd.commands.configuration.command_line import options
from hpc_localsgd.commands.configuration.names import CHOICES, class_at
from hpc_localsgd.errors import ConfigurationError

Path = tuple[str, ...]
KINDS = (*CHOICES, "optimizer")


def settle(
    words: Sequence[str], load: Callable[[str], Any], defaults: dict[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Merge files and command line, leaving out what belonged to a class that was replaced.

    Args:
        words: The expanded command line.
        load: Makes values of the text of a file.
        defaults: Option -> path of the class that is taken if none is named.

    Returns:
        The words, files replaced by what they say; and option -> path of the class that was named.

    Raises:
        ConfigurationError: A file that is none.
    """
    files = {}
    for i, option, value in options(words):
        if option == "config":
            found = config_file.read(value, load)
            if found is not None:
                files[i] = found
    sources = [*files.values(), _of_words(words, load)]
    chosen: dict[Path, str] = {(name,): path for name, path in defaults.items()}
    for n, source in enumerate(sources):
        for path, named in list(_named(source)):
            if path in chosen and not _same(chosen[path], named):
                for earlier in sources[:n]:
                    _forget(earlier, path)
            chosen[path] = named
    out = list(words)
    for i, found in files.items():
        option = "--config=" if words[i].startswith("--config=") else ""
        out[i] = option + _as_yaml(found, words[i].removeprefix("--config="))
    top = {path[0] for source in sources for path, _ in _named(source) if len(path) == 1}
    whole = {name: _whole(chosen[(name,)]) for name in top if name in defaults}
    return out, {name: path for name, path in whole.items() if _class(path) is not None}


def _as_yaml(found: dict[str, Any], path: str) -> str:
    r"""Return what a file says on one line; YAML does not know JSON's pairs, as \ud83d\ude00.

    Raises:
        ConfigurationError: It says something of which no option is made.
    """
    try:
        text = json.dumps(found)
    except TypeError as error:  # of a tag, as !!binary
        raise ConfigurationError(f"{path}: a value is neither text nor a number") from error
    return re.sub(r"\\ud[89ab]..\\ud[c-f]..", lambda pair: json.loads(f'"{pair[0]}"'), text)


def check_rate_is_elsewhere(words: Sequence[str], load: Callable[[str], Any]) -> None:
    """Check that the learning rate is given in one place, which is not the optimiser.

    Raises:
        ConfigurationError: It is given to the optimiser.
    """
    said: list[tuple[str, Any]] = [("", _of_words(words, load))]
    said += [(path, config_file.read(path, load) or {}) for path in config_file.named(words)]
    for file, source in said:
        optimizer = source.get("optimizer")
        inside = optimizer.get("init_args") if isinstance(optimizer, dict) else None
        if not isinstance(inside, dict) or "lr" not in inside:
            continue
        lr = inside["lr"]
        if file:
            where = config_file.place(file, ["optimizer", "lr"])
            raise ConfigurationError(
                f"{where}: optimizer.lr {lr}: the learning rate is set by rate, as "
                f"`rate: {{init_args: {{lr: {lr}}}}}` (and its schedule)"
            )
        raise ConfigurationError(
            f"--optimizer.lr {lr}: the learning rate is set by --rate.lr {lr} (and its schedule)"
        )


def _of_words(words: Sequence[str], load: Callable[[str], Any]) -> dict[str, Any]:
    """Return the classes and arguments that a command line gives, in the form of a file."""
    said: dict[str, Any] = {}
    for _, option, value in options(words):
        *above, name = [key for key in option.split(".") if key not in ("init_args", "class_path")]
        if name == "help" or (above or [name])[0] not in KINDS:
            continue
        inside = said
        for key in above:
            inside = _arguments(inside, key)
        if name not in KINDS:
            inside[name] = value
        elif isinstance(made := _value(value, load), dict):
            node = _arguments(inside, name)
            node.update(made.get("init_args") or {})
            if "class_path" in made:
                inside[name]["class_path"] = made["class_path"]
        else:
            _arguments(inside, name)
            inside[name]["class_path"] = value
    return said


def _value(text: str, load: Callable[[str], Any]) -> Any:
    with suppress(yaml.YAMLError, ConfigurationError):
        return load(text)
    return text


def _arguments(inside: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the arguments of an option's class, made if they are not there."""
    node = inside.setdefault(key, {})
    if not isinstance(node, dict):
        node = inside[key] = {"class_path": node}
    made: dict[str, Any] = node.setdefault("init_args", {})
    return made


def _named(source: Any, above: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield where in a source which class is named, from the outside to the inside."""
    for name, value in source.items() if isinstance(source, dict) else ():
        if name not in KINDS:
            continue
        path = (*above, name)
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, dict):
            if isinstance(value.get("class_path"), str):
                yield path, value["class_path"]
            yield from _named(value.get("init_args"), path)


def _forget(source: dict[str, Any], path: Path) -> None:
    """Remove what a source says of an option whose class has been replaced."""
    inside: Any = source
    for key in path[:-1]:
        node = inside.get(key)
        inside = node.get("init_args") if isinstance(node, dict) else None
        if not isinstance(inside, dict):
            return
    inside.pop(path[-1], None)


def _same(one: str, other: str) -> bool:
    """Return whether two paths name one class."""
    return one == other or (_class(one) is not None and _class(one) is _class(other))


def _class(path: str) -> Any:
    """Return what a path names; None if nothing has that name, which the parser reports."""
    with suppress(ImportError, AttributeError, ValueError):
        return class_at(_whole(path))
    return None


def _whole(path: str) -> str:
    """Return the whole path of one of torch's optimisers, which may be named without it."""
    return f"torch.optim.{path}" if path in vars(torch.optim) else path
