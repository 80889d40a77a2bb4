"""`python -m hpc_localsgd verify`: joins the world, checks everything, prints the table."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpc_localsgd.commands.exit_codes import OK, in_world, refuse
from hpc_localsgd.commands.output import columns_of_output, put
from hpc_localsgd.commands.verify.options import PROG, VerifyOptions, parse
from hpc_localsgd.engine.launch import Launch, detect
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.commands.verify.rows import VerifyReport
    from hpc_localsgd.worlds.base import World

FAILED = 1
K = 4  # workers, where the ranks divide it


def main(argv: Sequence[str] | None = None) -> int:
    """Verify, print on rank 0, and return the exit status."""
    share_cores(os.environ)  # before torch and MPI are imported
    launch = detect(os.environ)
    try:
        return verify(sys.argv[1:] if argv is None else argv, launch)
    except ConfigurationError as error:
        return refuse(str(error), launch, PROG)


def verify(argv: Sequence[str], launch: Launch) -> int:
    """Join the world, check everything, and report.

    Raises:
        ConfigurationError: On all ranks alike, before anything is looked at.
    """
    from hpc_localsgd.commands.assembly.worlds import join_world

    options, machine = parse(argv)
    n = launch.started
    workers = None if n is None else _workers(n, options.model is not None)
    world = join_world(launch, options.world, options.device, workers)

    def work() -> int:
        found = examine(world, options)
        if world.rank == 0:
            _print(found, machine, launch)
        _meet(world)  # a launcher ends the job at the first exit with a status
        return FAILED if found.failed else OK

    return in_world(world, PROG, work)


def examine(world: World, options: VerifyOptions) -> VerifyReport:
    """Run all checks that apply; return the same report on every rank."""
    import torch

    from hpc_localsgd.commands.verify.conformance import of_the_model, of_the_package

    begin = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are tiny: threads are in each other's way
    try:
        look = of_the_package if options.model is None else of_the_model
        return look(world, options, begin)
    finally:
        torch.set_num_threads(threads)


def _workers(n: int, own_model: bool) -> int:
    """Return the workers: of a user's model, which may be large, one a rank; at least two."""
    if own_model:
        return max(2, n)
    return n if K % n else K


def _print(found: VerifyReport, machine: bool, launch: Launch) -> None:
    from hpc_localsgd.commands.verify.rows import as_json, as_table

    terminal = columns_of_output(launch.launched)
    put(as_json(found) if machine else as_table(found, terminal))


def _meet(world: World) -> None:
    import numpy as np

    world.gather(np.zeros((world.R, 1)))
