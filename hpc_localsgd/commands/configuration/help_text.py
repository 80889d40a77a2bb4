"""The page of `--help`: names as they are typed, in place of class paths and underscores."""

from __future__ import annotations

import re
from argparse import Action
from typing import Any

from jsonargparse import DefaultHelpFormatter

from hpc_localsgd.commands.configuration.names import CHOICES, choices, name_at, optimizers


class HelpText(DefaultHelpFormatter):
    """Help of options, with the short names of those that take a class."""

    def add_argument(self, action: Action) -> None:
        """Add an option, but not the `.help` of another, which that one's text names."""
        if not any(option.endswith(".help") for option in action.option_strings):
            super().add_argument(action)

    def _get_help_string(self, action: Action) -> str:
        option = action.dest.rpartition(".")[2]
        if option != "optimizer" and option not in CHOICES:
            return _plain(str(super()._get_help_string(action)), action)
        known = sorted(choices(option)) if option in CHOICES else optimizers()
        default = _default(option, action.default)
        return (
            f"{action.help or ''} One of: {', '.join(known)}; "
            f"--{_typed(action.dest)}.help NAME shows the options of one. (default: {default})"
        ).lstrip()

    def _format_usage(self, *args: Any, **kwargs: Any) -> str:
        return _with_hyphens(str(super()._format_usage(*args, **kwargs)))

    def _format_action_invocation(self, action: Action) -> str:
        return _with_hyphens(str(super()._format_action_invocation(action)))


def _plain(text: str, action: Action) -> str:
    """Leave out Python's types, and defaults that say nothing (null, False) or are said already."""
    text = text.replace("type: %(type)s, ", "").replace(" (type: %(type)s)", "")
    text = re.sub(r", known subclasses: [^)]*", "", text)
    if action.default is None or action.default is False or "(default: " in (action.help or ""):
        text = text.replace(" (default: %(default)s)", "")
    return text.replace(" (required)", "")


def _default(option: str, default: Any) -> str:
    """Return the default of an option, a class path by its short name."""
    inside = default if isinstance(default, dict) else getattr(default, "__dict__", {})
    return name_at(option, inside["class_path"]) if "class_path" in inside else str(default)


def _typed(name: str) -> str:
    return name.replace("_", "-")


def _with_hyphens(text: str) -> str:
    """Write names of options, but not the values in capitals behind them, with hyphens."""
    return re.sub(r"--[a-z_.]+", lambda match: _typed(match.group()), text)
