"""The main job: `horovodrun -np 4 python -m hpc_localsgd.train`.

Parses the options, assembles the run, trains, and shows the results. Exit status: see
`exit_codes`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_localsgd import __version__
from hpc_localsgd.commands.configuration import help_page
from hpc_localsgd.commands.exit_codes import DIVERGED, OK, STOPPED, complain, in_world, refuse
from hpc_localsgd.engine.launch import Launch, detect
from hpc_localsgd.environment import garbage
from hpc_localsgd.environment.allocation import of_this_process, told
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.errors import ConfigurationError, Gone, Unreachable
from hpc_localsgd.run.stopping import StopListener, Stopped

if TYPE_CHECKING:
    from hpc_localsgd.commands.assembly.job import Job
    from hpc_localsgd.commands.configuration.config import Resolved
    from hpc_localsgd.trajectory import Trajectory
    from hpc_localsgd.worlds.base import World

PROG = "python -m hpc_localsgd.train"


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if help_page.asked(argv):
        sys.stdout.write(help_page.first_page(PROG))
        return OK
    share_cores(os.environ)  # before torch and MPI are imported
    with StopListener() as stopping:
        return _main(argv, stopping)


def _main(argv: Sequence[str], stopping: StopListener) -> int:
    launch = detect(os.environ)
    if launch.rank == 0 and "torch" not in sys.modules:  # which takes seconds to import
        sys.stdout.write(f"hpc_localsgd {__version__}: loading PyTorch\n")
        sys.stdout.flush()
    try:
        with garbage.importing():
            from hpc_localsgd.commands.configuration.config import parse

            resolved = parse(argv, PROG)
    except ConfigurationError as error:  # all ranks were given the same words
        return refuse(str(error), launch, PROG, alike=True)
    try:
        return run(resolved, launch, stopping)
    except ConfigurationError as error:
        return refuse(str(error), launch, PROG)


def run(resolved: Resolved, launch: Launch, stopping: StopListener | None = None) -> int:
    """Train with parsed options in the world this process was launched into."""
    with garbage.importing():
        from hpc_localsgd.commands.assembly.cadences import log_every_s, watchdog_s
        from hpc_localsgd.commands.assembly.worlds import make_world
        from hpc_localsgd.commands.smoke import smaller
        from hpc_localsgd.run import loggers
        from hpc_localsgd.run.watchdog import Starting

    if resolved.config.smoke:
        resolved = replace(resolved, config=smaller(resolved.config, launch.started or 1))
    config = resolved.config
    log_every_s(config)
    loggers.check(config.log)
    least_s = watchdog_s(config)  # a wrong time is said before anything is touched
    starting = Starting(launch.rank, 0 if launch.started == 1 else least_s)
    if stopping is not None:
        stopping.attend(starting.look)
    with starting.joining(), garbage.paused():
        world = make_world(config, launch)
    return in_world(world, PROG, lambda: _train(resolved, world, stopping))


def _train(resolved: Resolved, world: World, stopping: StopListener | None = None) -> int:
    with garbage.importing():
        from hpc_localsgd.commands.assembly.cadences import log_every_s
        from hpc_localsgd.commands.assembly.job import make_job
        from hpc_localsgd.commands.display import Display
        from hpc_localsgd.loop import train
        from hpc_localsgd.run.finished_rounds import Diverged

    config = resolved.config
    terminal = sys.stdout.isatty() and world.n == 1 and config.log_format == "text"
    with Display(world.rank, terminal, log_every_s(config), config.log_format) as display:
        with nothing_left(Path(config.out), world.rank == 0), garbage.paused():
            job = make_job(resolved, world, display.show, stopping)
        where = told(job.hosts, of_this_process()) if world.rank == 0 and world.n > 1 else []
        display.begin(job.run, job.position.t, job.units, [*where, *resolved.notes])
        try:
            job.start()
            end = train(job.run, job.position, job.record, job.keep)
        except Diverged as error:
            job.close("diverged")
            if world.rank == 0:
                complain(str(error), PROG)
            return DIVERGED
        except Unreachable as error:
            job.keeper.give_up(str(error))
        except Stopped as said:
            job.close("stopped")
            if world.rank == 0:
                complain(str(said), PROG)
            return STOPPED if stopping is None else stopping.status
        except BaseException:
            job.close("stopped")
            raise
        if config.save_model:
            job.keep_model(end)
        job.close("complete")
    if world.rank == 0:
        _conclude(job, config.figures)
    return OK


@contextmanager
def nothing_left(out: Path, first: bool) -> Iterator[None]:
    """Remove the folders that were made for a run that is refused; on the first rank.

    The others do not even look: NFS remembers for a minute what a host has found missing.
    """
    missing = [folder for folder in (out, *out.parents) if first and not os.path.exists(folder)]
    try:
        yield
    except ConfigurationError:
        for folder in missing:
            with suppress(OSError):  # something is in it
                folder.rmdir()
        raise


def _conclude(job: Job, figures: bool) -> None:
    """Draw the figures and print the closing table, on rank 0.

    Raises:
        Gone: The record cannot be read.
    """
    from hpc_localsgd.commands.display import show_conclusion
    from hpc_localsgd.run.final_model import FILE_NAME
    from hpc_localsgd.trajectory import Trajectory, TrajectoryError

    try:
        trajectory = Trajectory(job.out)
        drawn = _drawn(trajectory, job.out) if figures else []
        files = [job.out / name for name in ("trajectory.h5", FILE_NAME)]
        kept = [file for file in files if file.exists()]
        show_conclusion(trajectory, job.run, [*kept, *drawn], job.hosts)
    except (TrajectoryError, OSError) as error:
        raise Gone(f"the run is done, but its record cannot be read: {error}") from error


def _drawn(trajectory: Trajectory, out: Path) -> list[Path]:
    """Draw the figures of a run; return those that could be written."""
    from hpc_localsgd.analysis.figures import draw_run

    try:
        return draw_run(trajectory, out)
    except OSError as error:  # a full disk, say; the run itself is on it
        complain(f"no figures: {error}", PROG)
        return []
