"""Options of a run as a flat mapping of dotted names, each with the text that is typed for it.

    {schedule: every, schedule.steps: 4}   ->   --schedule=every --schedule.steps=4

The nested form of a configuration file, `{schedule: {class_path: every, init_args: {steps: 4}}}`,
means the same and is taken too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hpc_localsgd.commands.configuration.merging import KINDS
from hpc_localsgd.errors import ConfigurationError

Flat = dict[str, str]
_SPECIAL = set(",[]{}:#\"'&*!|>%@`")


def flat(options: Mapping[str, Any], above: str = "") -> Flat:
    """Return options as they are typed.

    Args:
        options: Dotted or nested, or both.
        above: The option they belong to.
    """
    found: Flat = {}
    for key, value in options.items():
        name = str(key).strip("-").replace("-", "_")
        inside = name in ("class_path", "init_args") and above
        dotted = above if inside else f"{above}.{name}" if above else name
        found |= flat(value, dotted) if isinstance(value, Mapping) else {dotted: typed(value)}
    return found


def typed(value: Any) -> str:
    """Write a value as it is typed behind an option.

    Args:
        value: A number, text, truth, nothing, or a list of them.
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_within(each) for each in value) + "]"
    return str(value)


def _within(value: Any) -> str:
    """Write an element of a list, in quotes where it would be taken for something else."""
    text = typed(value)
    return json.dumps(text) if isinstance(value, str) and _SPECIAL & set(text) else text


def merged(first: Flat, then: Flat) -> Flat:
    """Return the options of both, of which the later count.

    Whoever names another class brings its arguments: those of the class before are left out.

    Args:
        first: The options before.
        then: Those that come to them, or take their place.
    """
    found = dict(first)
    for name, value in then.items():
        if name.rpartition(".")[2] in KINDS and found.get(name) != value:
            found = {k: v for k, v in found.items() if not k.startswith(f"{name}.")}
        found[name] = value
    return found


def words(options: Flat) -> list[str]:
    """Return options as words of a command line: files first, classes before their arguments.

    Args:
        options: The options.
    """
    order = sorted(options, key=lambda name: (name != "config", name.count(".")))
    return [f"--{name}={options[name]}" for name in order]


def of_words(given: Sequence[str]) -> Flat:
    """Return the options that stand on a command line.

    Args:
        given: ``--name=value``, ``--name value``, or ``--name`` for a switch.

    Raises:
        ConfigurationError: A value without an option.
    """
    found: Flat = {}
    left = list(given)
    while left:
        word = left.pop(0)
        if not word.startswith("--") or word == "--":
            raise ConfigurationError(
                f"{word!r} behind `--` is not an option of a run: type --schedule.steps 4, say"
            )
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = left.pop(0) if left and not left[0].startswith("--") else "true"
        found = merged(found, {name.replace("-", "_"): value})
    return found
