"""YAML files of options: which are not one, and on which line one is wrong."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import regular_file

MOST_BYTES = 1 << 20  # of a file of options
_FILE = ": give a file of options, which is read more than once"


def named(words: Sequence[str]) -> list[str]:
    """Return the files that a command line names with `--config`."""
    return values_of("--config", words)


def values_of(wanted: str, words: Sequence[str]) -> list[str]:
    """Return every value that a command line gives an option, as `--it VALUE` or `--it=VALUE`."""
    found = []
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        option, equals, value = word.partition("=")
        if option == wanted:
            found.append(value if equals else following)
    return found


def read(path: str, load: Callable[[str], Any]) -> dict[str, Any] | None:
    """Read a YAML file of options; return None if it cannot be opened, which the parser reports.

    Args:
        path: Of the file.
        load: Makes values of its text.

    Raises:
        ConfigurationError: It has no end, may not be read, is not text, not YAML, or names no
            options.
    """
    try:
        text = regular_file.read(path, MOST_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a text file{_beside(path)}") from error
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EFBIG, errno.EACCES):
            raise ConfigurationError(f"--config {path}: {error.strerror}{_FILE}") from error
        return None
    except ValueError:
        return None
    try:
        loaded = load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(_of_yaml(path, error)) from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if not isinstance(loaded, dict):
        what = "is empty" if loaded is None else "has no options"
        raise ConfigurationError(f"{path} {what}: it wants lines like `seed: 1`")
    return loaded


def place(path: str, keys: Sequence[str]) -> str:
    """Return a file and the line of an option, as far as its keys can be followed."""
    node, line = yaml.compose(regular_file.read(path, MOST_BYTES).decode()), None
    for key in keys:
        key_node, node = _items(node).get(key, (None, None))
        if key_node is None:
            break
        line = key_node.start_mark.line + 1
    return path if line is None else f"{path}, line {line}"


def _items(node: Any) -> dict[str, tuple[Any, Any]]:
    """Map each key to its key and value nodes, those in init_args too, named in no message."""
    if not isinstance(node, yaml.MappingNode):
        return {}
    found = {str(key.value): (key, value) for key, value in node.value}
    return {**found, **_items(found.get("init_args", (None, None))[1])}


def _of_yaml(path: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}, line {mark.line + 1}" if mark else path
    why = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return f"{where}: {why}"


def _beside(path: str) -> str:
    """Return the options file of a run's folder, given the folder or its record by mistake."""
    config = Path(path).with_name("config.yaml")
    return f": the options of the run are in {config}" if config.is_file() else ""
