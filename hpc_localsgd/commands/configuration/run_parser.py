"""The parser of runs: what it prints can be read again, and it can be used again."""

from __future__ import annotations

from argparse import SUPPRESS
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from hpc_localsgd.commands.configuration import yaml_text
from hpc_localsgd.commands.configuration.help_text import HelpText


class RunParser(ArgumentParser):
    """Parser of runs. What it prints can be read again: without a rate of the optimiser."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Make a parser; one without a `prog` shows the options of one class, and no usage."""
        options.setdefault("formatter_class", HelpText)
        if "prog" not in options:
            options["usage"] = SUPPRESS
        super().__init__(*args, **options)

    def dump(self, cfg: Namespace, *args: Any, **options: Any) -> str:
        """Return a configuration as text."""
        with yaml_text.of_its_own():
            return str(super().dump(without_rate(cfg), *args, **options))


def without_rate(parsed: Namespace) -> Namespace:
    """Return the options without the optimiser's own learning rate, which is not used."""
    init_args = parsed.get("optimizer.init_args")
    if init_args is not None and "lr" in init_args:
        parsed = parsed.clone()
        del parsed["optimizer.init_args.lr"]
    return parsed


class KeptParser:
    """A parser, and how it was when it was made: to make one takes longer than to parse with it.

    Parsing leaves traces in it: the defaults of classes that were named, and the wish to print a
    configuration that was refused before it could be printed.
    """

    def __init__(self, made: ArgumentParser) -> None:
        """Keep a parser that has not been used yet."""
        self._made = made
        self._attributes = dict(vars(made))
        self._set_defaults = dict(made._defaults)
        self._defaults = [(action, action.default) for action in made._actions]

    def as_made(self) -> ArgumentParser:
        """Return the parser as it was made."""
        attributes: dict[str, Any] = vars(self._made)
        attributes.clear()
        attributes.update(self._attributes, _defaults=dict(self._set_defaults))
        for action, default in self._defaults:
            action.default = default
        return self._made
