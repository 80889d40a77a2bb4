"""What argparse refuses, in the words in which options of a run are refused."""

from __future__ import annotations

import difflib
import re
from argparse import Action, ArgumentParser
from collections.abc import Callable


def in_words(message: str, parser: ArgumentParser) -> str:
    """Rewrite a message of argparse: what was typed, and what may be. Others stay as they are.

    Args:
        message: What argparse said.
        parser: Which refused.
    """
    for said, plain in _WORDS.items():
        if found := re.fullmatch(said, message, flags=re.DOTALL):
            return plain(parser, *found.groups())
    return message


def _nothing(parser: ArgumentParser, option: str) -> str:
    action, typed = _action(parser, option), option.split("/")[-1].replace("_", "-")
    said = f"nothing is given for {typed}"
    if action is None:
        return said
    if known := _listed(action):
        return f"{said}: type one of {known}"
    return f"{said}: type {typed} {_value(action)}{' ...' if action.nargs == '+' else ''}"


def _missing(parser: ArgumentParser, names: str) -> str:
    """Name positional arguments as the page of usage does."""
    shown = {action.dest: _value(action) for action in parser._actions if action.metavar}
    return f"nothing is given for {', '.join(shown.get(n, n) for n in names.split(', '))}"


def _no_choice(parser: ArgumentParser, option: str, value: str, choices: str) -> str:
    action = _action(parser, option)
    known = (action and _listed(action)) or choices.replace("'", "")
    return f"{option} is one of {known}, got {value}"


def _no_such_option(parser: ArgumentParser, words: str) -> str:
    for word in words.split():
        name = word.partition("=")[0]
        if re.match("-+[A-Za-z]", name):
            known = [text for action in parser._actions for text in action.option_strings]
            near = difflib.get_close_matches(name, known, n=1)
            return f"there is no option {name}" + (f" - did you mean {near[0]}?" if near else "")
    first = words.split()[0] if words.split() else words
    return f"{first!r} is not the value of an option"


def _action(parser: ArgumentParser, option: str) -> Action | None:
    """Return the option that argparse names, with all its spellings, in a message."""
    named = (a for a in parser._actions if set(option.split("/")) & {*a.option_strings, a.metavar})
    return next(named, None)


def _value(action: Action) -> str:
    """Return how the page of usage shows a value."""
    metavar = action.metavar if isinstance(action.metavar, str) else None
    return metavar or action.dest.rpartition(".")[2].upper()


def _listed(action: Action) -> str:
    """Return what an option may be, which jsonargparse knows as the type alone; else nothing."""
    if action.choices is not None:
        return ", ".join(map(str, action.choices))
    shown = re.fullmatch(r"\{(.+)\}", _value(action))
    return shown[1].replace(",", ", ") if shown else ""


_WORDS: dict[str, Callable[..., str]] = {
    r"argument (\S+): expected (?:one|at least one|\d+) arguments?": _nothing,
    r"argument (\S+): invalid int value: '(.*)'": "{1} wants a whole number, got {2}".format,
    r"argument (\S+): invalid float value: '(.*)'": "{1} wants a number, got {2}".format,
    r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)": _no_choice,
    r"argument (\S+): ignored explicit argument '(.*)'": "{1} takes no value, got {2}".format,
    r"argument (\S+): (.*)": "{1}: {2}".format,
    r'Invalid option "(.*)" for --print_config': (
        "--print-config takes no value, or skip_default, got {1}".format
    ),
    r"ambiguous option: (\S+) could match (.*)": "{1} may be {2}: type all of it".format,
    r"the following arguments are required: (.*)": _missing,
    r"unrecognized arguments: (.*)": _no_such_option,
}
