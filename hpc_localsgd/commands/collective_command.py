"""Commands that measure a finished run in the world they are launched into.

Exit status: 0 done, 2 a fault of the request, 1 anything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Protocol, TypeVar, get_type_hints

from hpc_localsgd.commands.exit_codes import OK, in_world, refuse
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from hpc_localsgd.worlds.base import World


class WorldOptions(Protocol):
    """Options common to all commands that measure on several ranks."""

    @property
    def world(self) -> str:
        """As for training: auto, simulated, horovod, mpi or torch."""

    @property
    def device(self) -> str:
        """As for training."""


Options = TypeVar("Options")  # a dataclass
Chosen = TypeVar("Chosen", bound=WorldOptions)


def parser_of(
    prog: str, about: str, kind: type[object], flags: Mapping[str, str]
) -> ArgumentParser:
    """Return the parser of a command that measures a run.

    Args:
        prog: The command, for messages.
        about: What it does.
        kind: The dataclass of its options, `run` and `trust` among them.
        flags: Name -> help of the options that take no value.
    """
    from jsonargparse import ArgumentParser

    from hpc_localsgd.commands.configuration.config import add_trust
    from hpc_localsgd.commands.configuration.help_text import HelpText

    made = ArgumentParser(
        prog=prog, description=about, exit_on_error=False, formatter_class=HelpText
    )
    made.add_argument("run", metavar="RUN", help="The run: its folder, or its trajectory.h5.")
    for name, text in flags.items():
        made.add_argument(f"--{name}", action="store_true", help=text)
    add_trust(made)
    made.add_class_arguments(kind, nested_key=None, skip={"run", "trust", *flags})
    return made


def parse_options(made: ArgumentParser, kind: type[Options], argv: Sequence[str]) -> Options:
    """Parse the options of a command line into their dataclass.

    Args:
        made: The parser of `parser_of`.
        kind: The dataclass.
        argv: The command line.

    Raises:
        ConfigurationError: Unknown options or values.
        SystemExit: Help was printed.
    """
    from hpc_localsgd.commands.configuration.config import arguments
    from hpc_localsgd.commands.configuration.value_checks import check

    parsed = arguments(made, argv)
    given = {field.name: parsed[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    check(given, get_type_hints(kind))
    return kind(**{**given, "trust": tuple(parsed.trust)})


def measure(
    argv: Sequence[str] | None,
    prog: str,
    parse: Callable[[Sequence[str]], Chosen],
    work: Callable[[Chosen, World], None],
) -> int:
    """Parse, join the world with one worker a rank, and work; return the exit status.

    Args:
        argv: The command line; None for this process's.
        prog: The command, for messages.
        parse: Makes the options; raises ConfigurationError.
        work: The measurement, by all ranks together. What it sends is not counted. It
            raises ConfigurationError on all ranks alike.
    """
    share_cores(os.environ)  # before torch and MPI are imported
    launch = detect(os.environ)
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        from hpc_localsgd.commands.assembly.worlds import join_world

        world = join_world(launch, options.world, options.device, launch.started)
    except ConfigurationError as error:
        return refuse(str(error), launch, prog)

    def unbilled() -> int:
        with world.ledger.unbilled():
            work(options, world)
        return OK

    return in_world(world, prog, unbilled)
