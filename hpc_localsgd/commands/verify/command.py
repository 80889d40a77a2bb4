"""A conformance run on this machine and launcher, seconds long: a table of ok and failed.

`mpirun -np 2 python -m hpc_localsgd verify`, and the same under horovodrun, torchrun, srun or
alone. With `--model package.module:factory` it looks at a model of your own instead: factory()
returns an nn.Module, or (module, inputs [B, ...], classes [B]). Exit status: 0 when every row is
ok, 1 when one failed, 2 for a fault of the request.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpc_localsgd.commands.exit_codes import OK, in_world, refuse
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.environment.launch import Launch, detect
from hpc_localsgd.types import ConfigurationError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from hpc_localsgd.commands.verify.rows import Report
    from hpc_localsgd.worlds.base import World

PROG = "python -m hpc_localsgd verify"
FAILED = 1
K = 4  # workers, where the ranks divide it


@dataclass(frozen=True)
class Options:
    """Options of `verify`.

    Args:
        world: Where the workers live, as for training: auto, simulated, horovod, mpi or torch.
        device: auto takes a GPU if there is one for this rank.
        model: A model of your own to look at, "package.module:factory". The factory takes no
            arguments and returns an nn.Module, or a tuple (module, inputs [B, ...], classes [B]).
        input_shape: Of one sample, such as 3x32x32, where the factory returns only a module: the
            inputs are then made of random numbers.
        classes: How many classes the model tells apart, for the same case: the labels are random.
    """

    world: Literal["auto", "simulated", "horovod", "mpi", "torch"] = "auto"
    device: str = "auto"
    model: str | None = None
    input_shape: str | None = None
    classes: int | None = None


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
    from hpc_localsgd.commands.assembly.worlds import join_world, started

    options, machine = parse(argv)
    n = started(launch)
    workers = None if n is None else _workers(n, options.model is not None)
    world = join_world(launch, options.world, options.device, workers)

    def work() -> int:
        found = examine(world, options)
        if world.rank == 0:
            _print(found, machine, launch)
        _meet(world)  # a launcher ends the job at the first exit with a status
        return FAILED if found.failed else OK

    return in_world(world, PROG, work)


def examine(world: World, options: Options) -> Report:
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


def parse(argv: Sequence[str]) -> tuple[Options, bool]:
    """Parse the options, and whether JSON is wanted.

    Raises:
        ConfigurationError: Unknown options or values.
    """
    from hpc_localsgd.commands.configuration.config import arguments

    parsed = arguments(parser(), argv)
    names = Options.__dataclass_fields__
    options = Options(**{name: parsed[name] for name in names})
    if options.model is None and (options.input_shape or options.classes):
        raise ConfigurationError("--input-shape and --classes belong to --model: give that too")
    return options, bool(parsed.json)


def parser() -> ArgumentParser:
    """Return the parser of verify."""
    from jsonargparse import ArgumentParser

    made = ArgumentParser(
        prog=PROG, description=(__doc__ or "").replace("\n", " "), exit_on_error=False
    )
    made.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    made.add_class_arguments(Options, nested_key=None)
    return made


def _workers(n: int, own_model: bool) -> int:
    """Return the workers: of a user's model, which may be large, one a rank; at least two."""
    if own_model:
        return max(2, n)
    return n if K % n else K


def _print(found: Report, machine: bool, launch: Launch) -> None:
    from hpc_localsgd.commands.verify.rows import as_json, as_table

    # Launchers give their ranks a terminal even when their own output is a file.
    coloured = launch.launcher == "none" and sys.stdout.isatty()
    text = as_json(found) if machine else as_table(found, coloured)
    sys.stdout.write(text + "\n")  # in one piece: launchers tag every write
    sys.stdout.flush()


def _meet(world: World) -> None:
    import numpy as np

    world.gather(np.zeros((len(world.ranks), 1)))
