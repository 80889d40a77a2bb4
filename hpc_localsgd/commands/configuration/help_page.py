"""The first page of `train --help`: what one meets first, in groups. Nothing of torch is imported.

Its words and defaults are those of `options`; the names that can be chosen are read off the files.
"""

from __future__ import annotations

import re
from argparse import Action, ArgumentParser, HelpFormatter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, Field, fields
from functools import partial
from inspect import cleandoc
from pathlib import Path

from hpc_localsgd.commands.configuration.options import (
    CONFIG_HELP,
    OPTIMIZER,
    OPTIMIZER_HELP,
    Config,
)
from hpc_localsgd.schedules import by_distance, by_loss, local_steps, rates
from hpc_localsgd.types import legend

ALL = "--help-all"
WHOLE = 40  # letters, at most, of a default that is shown in full
EXAMPLES = """\
examples:
  {prog} --workers 4 --epochs 20
  horovodrun -np 4 {prog} --schedule.every 8
  {prog} --config runs/digits/config.yaml --out runs/2
"""
# What is met first, and what stands for a value.
GROUPS: dict[str, dict[str, str]] = {
    "what is trained": {
        "task": "NAME",
        "epochs": "N",
        "steps": "N",
        "batch_per_worker": "N",
        "optimizer": "NAME",
        "rate": "NAME",
    },
    "how the workers train together": {
        "algorithm": "NAME",
        "schedule": "NAME",
        "workers": "K",
        "world": "WORLD",
    },
    "what is measured and kept": {
        "out": "FOLDER",
        "resume": "",
        "overwrite": "",
        "evaluate_every": "TIME",
        "checkpoint_every": "TIME",
    },
    "how to begin": {
        "config": "FILE",
        "smoke": "",
        "seed": "N",
        "device": "NAME",
        "precision": "NAME",
    },
}


def asked(argv: Sequence[str]) -> bool:
    """Return whether a command line asks for the first page of help."""
    return bool({"-h", "--help"} & set(argv)) and ALL not in argv


def first_page(prog: str, about_it: str = "", own: Iterable[Action] = ()) -> str:
    """Return the first page of help, as wide as the terminal.

    Args:
        prog: The command.
        about_it: What it does, if it is not training.
        own: Its own options, beside those of a run.
    """
    of_a_run = cleandoc(Config.__doc__ or "").partition("\nArgs:")[0].strip()
    made = ArgumentParser(
        prog=prog,
        usage="%(prog)s [options]",
        description=f"{about_it}\n\n{of_a_run}" if about_it else of_a_run,
        epilog="" if about_it else EXAMPLES.format(prog=prog),
        add_help=False,
        formatter_class=partial(_Format, max_help_position=28),
    )
    if own := list(own):
        group = made.add_argument_group("of this command")
        for action in own:
            group._add_action(action)
    for title, options in GROUPS.items():
        group = made.add_argument_group(title)
        for option, metavar in options.items():
            typed = "--" + option.replace("_", "-")
            said = _words(option).replace("%", "%%")
            if metavar:
                group.add_argument(typed, metavar=metavar, help=said)
            else:
                group.add_argument(typed, action="store_true", help=said)
    group = made.add_argument_group("more")
    group.add_argument("--task.help", metavar="NAME", help=_OF_ONE)
    group.add_argument(ALL, action="store_true", help="All options.")
    return made.format_help()


_OF_ONE = (
    "The options of one task, which are typed --task.OPTION; also --algorithm.help NAME, "
    "--schedule.help, --rate.help and --optimizer.help."
)


class _Format(HelpFormatter):
    """Formatter that wraps the text of options, but not the lines of examples and paragraphs."""

    def _format_action_invocation(self, action: Action) -> str:
        typed = super()._format_action_invocation(action)
        return re.sub(r"--[a-z_.]+", lambda found: found.group().replace("_", "-"), typed)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        if text.startswith("examples:"):
            return text
        return "\n\n".join(super(_Format, self)._fill_text(p, width, indent) for p in paragraphs)


def _words(option: str) -> str:
    """Return the meaning, choices and default of an option."""
    if option == "config":
        return CONFIG_HELP
    if option == "optimizer":
        return f"{OPTIMIZER_HELP} (default: {OPTIMIZER['class_path'].rpartition('.')[2]})"
    known = sorted(names(option))
    of = f" One of: {', '.join(known)}." if known else ""
    default = _default(next(f for f in fields(Config) if f.name == option))
    said = about().get(option, "")  # `python -OO` drops docstrings
    return f"{said}{of}{default}"


def about() -> dict[str, str]:
    """Return the meaning of each option, a line each, from the docstring of `Config`."""
    text = cleandoc(Config.__doc__ or "").partition("\nArgs:\n")[2]
    found = re.findall(r"^    (\w+): (.+(?:\n      .+)*)", text, flags=re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def names(option: str) -> Iterator[str]:
    """Yield the names that an option can take, if each is a file or a class."""
    here = Path(__file__).parents[2]
    if option == "task":
        for file in (here / "tasks").glob("*.py"):
            if f"\nclass {file.stem}(" in file.read_text(encoding="utf-8"):
                yield file.stem
    elif option == "algorithm":
        for file in (here / "algorithms").glob("*.py"):
            if "(Algorithm):\n" in file.read_text(encoding="utf-8"):
                yield file.stem
    elif option in ("schedule", "rate"):
        for module in (local_steps, by_distance, by_loss) if option == "schedule" else (rates,):
            for name, item in vars(module).items():
                if isinstance(item, type) and item.__module__ == module.__name__ and name.islower():
                    yield name


def _default(field: Field[object]) -> str:
    if field.default_factory is not MISSING:
        made = getattr(field.default_factory, "named", None) or _short(field.default_factory())
        return f" (default: {made})"
    said = field.default is not None and field.default is not False
    return f" (default: {field.default})" if said else ""


def _short(thing: object) -> str:
    """Return an object as it is made, with the arguments that differ from its class's defaults."""
    return repr(thing) if len(repr(thing)) <= WHOLE else legend(thing)
