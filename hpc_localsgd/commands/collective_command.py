"""Commands that measure a finished run in the world they are launched into.

Exit status: 0 done, 2 a fault of the request, 1 anything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from hpc_localsgd.commands.exit_codes import OK, in_world, refuse
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.environment.launch import detect
from hpc_localsgd.types import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World


class Options(Protocol):
    """Options common to all commands that measure on several ranks."""

    @property
    def world(self) -> str:
        """As for training: auto, simulated, horovod, mpi or torch."""

    @property
    def device(self) -> str:
        """As for training."""


Chosen = TypeVar("Chosen", bound=Options)


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
        from hpc_localsgd.commands.assembly.worlds import join_world, started

        world = join_world(launch, options.world, options.device, started(launch))
    except ConfigurationError as error:
        return refuse(str(error), launch, prog)

    def unbilled() -> int:
        with world.ledger.unbilled():
            work(options, world)
        return OK

    return in_world(world, prog, unbilled)
