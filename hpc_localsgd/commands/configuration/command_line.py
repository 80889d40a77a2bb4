"""A command line as jsonargparse wants it: names, switches, what is said twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache

from hpc_localsgd.commands.configuration import trust
from hpc_localsgd.commands.configuration.names import CHOICES, choices, class_at
from hpc_localsgd.errors import ConfigurationError


def check_text(argv: Sequence[str]) -> None:
    """Refuse bytes that are no text here: they could not be written into any file.

    Raises:
        ConfigurationError: There are some.
    """
    for word in argv:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise ConfigurationError(
                f"{word!a} is no text in this shell's encoding ({sys.getfilesystemencoding()}): "
                "type `export LC_ALL=C.UTF-8` and `unset PYTHONUTF8`, or give a name in UTF-8"
            ) from error


def expand(argv: Sequence[str], flags: frozenset[str]) -> list[str]:
    """Expand the names in a command line.

    `-` in option names becomes `_`, a bare switch (`--overwrite`) gets its `true`, and short names
    become class paths.

    Args:
        argv: The command line.
        flags: Names of the switches, but for those of what can be chosen.

    Raises:
        ConfigurationError: Unknown short names.
    """
    out: list[str] = []
    option = ""
    for word, following in zip(argv, [*argv[1:], "--"], strict=False):
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            option = option.replace("-", "_")
            bare = following.startswith("--")
            if is_flag(option, flags) and not equals and bare:
                equals, value = "=", "true"
            word = f"--{option}" + (f"={trust.chosen(option, value)}" if equals else "")
        else:
            word = trust.chosen(option, word)
            option = ""
        out.append(word)
    return out


def is_flag(option: str, flags: frozenset[str]) -> bool:
    """Return whether an option is a switch, which may stand without a value."""
    of, _, name = option.rpartition(".")
    chosen = of.rpartition(".")[2]
    return name in _switches(chosen) if chosen in CHOICES else option in flags


@cache
def _switches(option: str) -> frozenset[str]:
    """Return the names of the switches of every class an option can take."""
    classes = [class_at(path) for path in choices(option).values()]
    found = [f.name for c in classes if is_dataclass(c) for f in fields(c) if f.type == "bool"]
    return frozenset(found)


def options(words: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield (index of its value, name, value) for every option of an expanded command line."""
    for i, (word, following) in enumerate(zip(words, [*words[1:], "--"], strict=False)):
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
            apart = not equals and not following.startswith("--")
            yield (i + 1 if apart else i), option, (following if apart else value)


def overruled(words: Sequence[str]) -> list[str]:
    """Say, a sentence each, which options are given two different values: the later counts.

    Job scripts put what a user types after options of their own. `--config` and `--trust`
    may be given several times.
    """
    seen: dict[str, str] = {}
    said = []
    for _, option, value in options(words):
        if option.endswith("+") or option in ("config", "trust"):
            continue
        if seen.get(option, value) != value:
            shown = "--" + option.replace("_", "-")
            said.append(f"{shown} is given twice: {value} counts, {seen[option]} does not")
        seen[option] = value
    return said
