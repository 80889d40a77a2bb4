"""The options of a run, and how a command line and YAML files become them.

Everything is jsonargparse: YAML files with `--config`, dotted overrides, help from docstrings. To
it come short names (`--algorithm local_sgd`, see `names`) and other words for what it refuses
(`error_messages`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any, get_type_hints

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_loader

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.commands import argparse_words
from hpc_localsgd.commands.configuration import config_file, help_page, trust, yaml_text
from hpc_localsgd.commands.configuration.command_line import check_text, expand, options, overruled
from hpc_localsgd.commands.configuration.error_messages import in_words, keys, written
from hpc_localsgd.commands.configuration.merging import KINDS, check_rate_is_elsewhere, settle
from hpc_localsgd.commands.configuration.names import CHOICES, choices
from hpc_localsgd.commands.configuration.options import CONFIG_HELP, OPTIMIZER, OPTIMIZER_HELP
from hpc_localsgd.commands.configuration.options import Config as Config
from hpc_localsgd.commands.configuration.resume_key import text_of
from hpc_localsgd.commands.configuration.run_parser import KeptParser, RunParser, without_rate
from hpc_localsgd.commands.configuration.value_checks import check as check_values
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.gradients.base import GradientAt
from hpc_localsgd.tasks.base import TaskSpec
from hpc_localsgd.tasks.shards import alpha_of
from hpc_localsgd.trajectory.safe_text import check_yaml

# What annotates the options beside `options`, which imports nothing of torch.
TYPES = {kind.__name__: kind for kind in (TaskSpec, Algorithm, GradientAt)}
FLAGS = frozenset(f.name for f in fields(Config) if isinstance(f.default, bool))
_ALONE = RLock()  # threads share a parser
_OF_A_RUN = {f.name for f in fields(Config)} | {
    *("help", "config", "print_config", "optimizer", "trust"),
}
MakeOptimizer = Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Resolved:
    """A parsed configuration: the objects, and the text from which they can be made again.

    Attributes:
        config: The options as objects.
        optimizer: Makes the torch optimiser from parameter groups.
        text: The whole configuration as YAML, without where it runs and where it is written.
        notes: What the user may have overlooked.
    """

    config: Config
    optimizer: MakeOptimizer
    text: str
    notes: tuple[str, ...] = ()


def parser(prog: str) -> ArgumentParser:
    """Return the parser of every command that takes the options of a run."""
    set_loader("yaml_short_names", _load, (yaml.YAMLError, ConfigurationError))
    _import_choices()
    about = (Config.__doc__ or "").split("\n\n")[0]
    yaml_text.read_numbers_as_typed()
    made = RunParser(prog=prog, description=about, exit_on_error=False)
    made.parser_mode = "yaml_short_names"
    made.add_argument("--config", action=ActionConfigFile, help=CONFIG_HELP)
    made.add_class_arguments(Config, nested_key=None)
    made.add_argument(
        "--optimizer",
        type=MakeOptimizer,
        default=OPTIMIZER,
        help=OPTIMIZER_HELP,
    )
    add_trust(made)
    return made


def add_trust(made: ArgumentParser) -> None:
    """Add the option --trust to a parser that makes objects from a record."""
    made.add_argument("--trust", action="append", default=[], metavar="MODULE", help=trust.HELP)


def parse(argv: Sequence[str], prog: str = "python -m hpc_localsgd.train") -> Resolved:
    """Parse the options of a run from a command line.

    Raises:
        ConfigurationError: Unknown names or keys, or contradicting options.
        SystemExit: jsonargparse refused the command line (it has printed why), or printed help.
    """
    with _ALONE:
        return resolve(_kept(prog).as_made(), argv)


@cache
def _kept(prog: str) -> KeptParser:
    return KeptParser(parser(prog))


def recorded(text: str, trusted: Sequence[str] = (), words: Sequence[str] = ()) -> Resolved:
    """Parse the options that a run has recorded; the record may come from anyone.

    Args:
        text: As YAML.
        trusted: Modules it may name, beside what this package and torch ship.
        words: Options that change it, as typed.

    Raises:
        ConfigurationError: It is not understood, or names something else.
    """
    prog = "the configuration of the run"
    with tempfile.TemporaryDirectory() as folder, trust.guarded(trusted, recorded=True):
        file = Path(folder) / "config.yaml"
        file.write_text(text)
        try:
            found = parse(["--config", str(file)], prog)
        except ConfigurationError as error:
            said = str(error).replace(f"{file}", "its text").removesuffix(f" (see {prog} --help)")
            raise ConfigurationError(
                f"the configuration that the run recorded is not understood: {said}"
            ) from error
        typed_with = "python -m hpc_localsgd.train"  # whose help has them
        return parse(["--config", str(file), *words], typed_with) if words else found


def resolve(made: ArgumentParser, argv: Sequence[str]) -> Resolved:
    """Resolve the options of a run by a parser that may have further options."""
    with trust.guarded(trust.trusted_in(argv)):
        return _resolved(made, argv)


def _resolved(made: ArgumentParser, argv: Sequence[str]) -> Resolved:
    parsed = arguments(made, argv)
    names = {f.name for f in fields(Config)}
    check_values(vars(parsed), get_type_hints(Config, localns=TYPES))
    try:
        objects = made.instantiate(without_rate(parsed))
    except (TypeError, ValueError, ArithmeticError) as error:  # of a class, which knows its values
        raise ConfigurationError(
            f"these options do not describe a run: {_first_line(error)}"
        ) from error
    config = Config(**{name: objects[name] for name in names})
    if config.steps is not None and config.epochs is not None:
        raise ConfigurationError("give --steps or --epochs, not both; --epochs null drops a file's")
    alpha_of(config.partition)  # or it is refused
    if config.checkpoint_keep < 1:
        raise ConfigurationError(f"--checkpoint-keep {config.checkpoint_keep}: keep at least one")
    notes = tuple(overruled(expand(argv, FLAGS)))
    return Resolved(config, objects.optimizer, text_of(made, parsed), notes)


def _first_line(error: Exception) -> str:
    """Return the message with which a class refused its values, unwrapped from the parser's."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, ConfigurationError):
        inner = inner.__cause__
    if inner is not None:
        return str(inner)
    return (str(error).splitlines() or [type(error).__name__])[0]


def arguments(made: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse a command line, with short names and bare switches.

    Args:
        made: The parser, which does not exit on errors.
        argv: The command line.

    Raises:
        ConfigurationError: Unknown options or values.
        SystemExit: Help was printed.
    """
    with trust.guarded(trust.trusted_in(argv)):
        return _arguments(made, argv)


def _arguments(made: ArgumentParser, argv: Sequence[str]) -> Namespace:
    check_text(argv)
    if help_page.ALL in argv:
        made.print_help()
        raise SystemExit(0)
    if help_page.asked(argv) and _has_files(made):
        about, own = "", [action for action in made._actions if action.dest not in _OF_A_RUN]
        if own := [action for action in own if not action.dest.endswith(".help")]:
            about = made.description or ""
        sys.stdout.write(help_page.first_page(made.prog, about, own))
        raise SystemExit(0)
    words = expand(argv, FLAGS - {action.dest for action in made._actions if action.nargs == 0})
    _check_names(made, words)
    for path in config_file.named(words):
        trust.look_at(path)
    check_rate_is_elsewhere(words, _load)
    twice = overruled(words)
    if twice and not _has_files(made) and not detect(os.environ).rank:
        sys.stderr.write(f"{made.prog}: {'; '.join(twice)}\n")
    settled, named = settle(words, _load, _default_classes(made))
    for option, path in named.items():
        made.set_defaults({option: {"class_path": path}})
    try:
        parsed = made.parse_args(settled)
        if parsed.get("trust") not in (None, trust.trusted_in(words)):
            raise ConfigurationError("--trust is typed on the command line: no file can say it")
        return parsed
    except ArgumentError as error:  # without the page of usage that argparse prints
        said = _explained(made, words, str(error))
        raise ConfigurationError(f"{said} (see {made.prog} --help)") from error


def _check_names(made: ArgumentParser, words: Sequence[str]) -> None:
    """Check that all options exist: an abbreviated name is refused.

    Raises:
        ConfigurationError: There is none.
    """
    known = _names(made)
    for _, option, _ in options(words):
        if option.partition(".")[0].removesuffix("+") not in known:
            said = in_words(f"unrecognized arguments: --{option}", known)
            raise ConfigurationError(f"{said} (see {made.prog} --help)")


def _has_files(made: ArgumentParser) -> bool:
    """Return whether a parser takes the options of a run, with files and wrapped job scripts."""
    return any(action.dest == "config" for action in made._actions)


def _default_classes(made: ArgumentParser) -> dict[str, str]:
    """Map each option to the path of its default class."""
    found = {}
    for action in made._actions:
        if action.dest in KINDS:
            inside = (
                vars(action.default) if isinstance(action.default, Namespace) else action.default
            )
            found[action.dest] = inside["class_path"]
    return found


def _explained(made: ArgumentParser, words: Sequence[str], message: str) -> str:
    """Explain an error in words, with the line of the file if the file alone is at fault."""
    for path in config_file.named(words):
        try:
            made.parse_args([f"--config={path}"])
        except ArgumentError as error:
            if str(error) == message and os.path.isfile(path):
                where = config_file.place(path, keys(message))
                return f"{where}: {in_words(message, _names(made), written)}"
    return argparse_words.in_words(in_words(message, _names(made)), made)


def _names(made: ArgumentParser) -> list[str]:
    """Return all options of a parser that are not part of another."""
    known = [text for action in made._actions for text in action.option_strings]
    return [text[2:] for text in known if text.startswith("--") and "." not in text]


def _import_choices() -> None:
    for option in CHOICES:
        choices(option)


def _load(text: str) -> Any:
    """Load YAML as it was typed, with its short names replaced by class paths."""
    try:
        check_yaml(text)
        return _with_class_paths(trust.check_whole(yaml_text.load(text)))
    except RecursionError as error:
        raise yaml.YAMLError("it contains itself") from error


def _with_class_paths(value: Any, option: str = "") -> Any:
    """Replace by class paths the short names in a value that belong to an option of `CHOICES`."""
    if isinstance(value, dict):
        named = {k: _with_class_paths(v, str(k)) for k, v in value.items()}
        if "class_path" in value:
            named["class_path"] = trust.chosen(option, value["class_path"])
            trust.vet(option, named["class_path"])
        return named
    if isinstance(value, list):
        return [_with_class_paths(each) for each in value]
    return trust.chosen(option, value)
