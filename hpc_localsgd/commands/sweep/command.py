r"""Runs over a grid of options and seeds.

    python -m hpc_localsgd sweep grid.yaml --jobs 2
    python -m hpc_localsgd sweep --out runs/h --vary schedule.steps=1,4,16 --seeds 0-2 -- \
        --task digits --schedule every --workers 8

Every run is checked before the first one starts. The same command continues: what is complete is
kept, what was stopped or killed continues where it was, and what is new in the grid is added.
"""

from __future__ import annotations

import os
import shlex
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_localsgd.commands.exit_codes import DIVERGED, FAULT, OK, STOPPED, CommandParser, complain
from hpc_localsgd.commands.output import columns_of_output, put
from hpc_localsgd.errors import ConfigurationError, of_file
from hpc_localsgd.run.lease import lock

if TYPE_CHECKING:
    from argparse import Namespace

    from hpc_localsgd.commands.sweep.members import Member
    from hpc_localsgd.commands.sweep.request import SweepRequest

PROG = "python -m hpc_localsgd sweep"
FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status.

    0 if all runs are complete, 3 if all have ended and some diverged, 85 if it was stopped, 1 if
    runs failed, 2 for a fault of the request.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:cut])
    try:
        return _main(options, words[cut + 1 :])
    except ConfigurationError as error:
        complain(str(error), PROG)
        return FAULT
    except OSError as error:  # of the folder of --out
        complain(of_file(error), PROG)
        return FAULT


def parser() -> CommandParser:
    """Return the parser of the command."""
    made = CommandParser(
        prog=PROG,
        usage="%(prog)s [FILE] [options] [-- options of every run]",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("file", nargs="?", metavar="FILE", help="YAML with options, grid, seeds and out")
    add("--out", metavar="FOLDER", help="folder of the sweep; each run has a folder in it")
    add(
        "--vary",
        action="append",
        default=[],
        metavar="OPTION=V,V",
        help="values of an option; repeatable, the grid is all combinations",
    )
    add("--seeds", metavar="SEEDS", help="0,1,2 or 0-4; default: 0")
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time; default: 1 here, as many as there are with Slurm",
    )
    add("--launch", default="", metavar="CMD", help="in front of every run: 'mpirun -np 2'")
    add("--list", action="store_true", help="check, say how the runs stand, and start nothing")
    add(
        "--slurm",
        nargs="?",
        const="submit",
        choices=("submit", "write"),
        help="as a job array; write: only say how to submit it",
    )
    add("--sbatch", default="", metavar="WORDS", help="options of sbatch: '--partition gpu'")
    return made


def _main(options: Namespace, rest: Sequence[str]) -> int:
    from hpc_localsgd.commands.sweep import checking, manifest, members, request, table
    from hpc_localsgd.commands.sweep.dotted_options import of_words
    from hpc_localsgd.commands.sweep.status import standing

    _check_alone(options)
    said = request.read(options.file) if options.file else {}
    asked = request.request(said, of_words(rest), options.vary, options.seeds, options.out)
    runs = members.members(asked.options, asked.axes, asked.seeds)
    ranks = None if options.slurm else checking.ranks_of(shlex.split(options.launch))
    checking.check(runs, ranks, elsewhere=bool(options.slurm))
    now = standing(runs, asked.out)
    put(f"{len(runs)} runs in {asked.out}: {now.counted()}")
    if now.strangers:
        put(f"not of this grid, and left alone: {', '.join(now.strangers)}")
    if options.list:
        return OK
    if options.slurm:
        return _submit(options, asked, runs)
    with _held(asked.out):
        manifest.write(runs, asked.out)
        status = _run(options, asked, runs)
    text = table.table(runs, asked.out, columns_of_output())
    put(f"\n{text}" if text else "no run has a record yet")
    return status


def _run(options: Namespace, asked: SweepRequest, runs: Sequence[Member]) -> int:
    """Run what is not done, and say of each how it ended."""
    from hpc_localsgd.commands.sweep.progress import ProgressLine
    from hpc_localsgd.commands.sweep.running import LOGS, Crew
    from hpc_localsgd.commands.sweep.status import standing

    pending = standing(runs, asked.out).pending(runs)
    jobs = options.jobs or 1
    crew = Crew(asked.out, jobs, shlex.split(options.launch))
    with ProgressLine(len(runs), len(runs) - len(pending), jobs, sys.stdout.isatty()) as line:

        def ended(member: Member, status: int, seconds: float) -> None:
            there = standing([member], asked.out).of[member.name]
            line.ended(member, _word(there, status, crew.asked, asked.out / LOGS, member), seconds)

        crew.run(pending, ended, line.show)
    return _status(runs, asked.out, crew.asked)


def _word(there: str, status: int, asked: bool, logs: Path, member: Member) -> str:
    """Say how a run ended, by its record: a status of 0 alone is a launcher's word for it."""
    if there in ("complete", "diverged"):
        return there
    if asked or status == STOPPED:
        return "stopped"
    return f"FAILED with status {status} and no complete record, see {logs / f'{member.name}.txt'}"


def _status(runs: Sequence[Member], out: Path, stopped: bool) -> int:
    """Return the exit status of the sweep, and say what is left to be done."""
    from hpc_localsgd.commands.sweep.status import standing

    now = standing(runs, out)
    left = now.pending(runs)
    if left:
        how = "stopped" if stopped else "not all runs ended"
        put(f"{how}: {now.counted()}; the same command continues with what is left")
        return STOPPED if stopped else FAILED
    return DIVERGED if "diverged" in now.of.values() else OK


def _submit(options: Namespace, asked: SweepRequest, runs: Sequence[Member]) -> int:
    """Write the list of an array, and submit it or say how."""
    from hpc_localsgd.commands.sweep import manifest, slurm
    from hpc_localsgd.commands.sweep.status import standing

    out, folder = asked.out.resolve(), slurm.root()
    pending = standing(runs, out).pending(runs)
    manifest.write(runs, out)
    if not pending:
        put("nothing is left to be done")
        return OK
    file = slurm.written(pending, out)
    words = slurm.command(len(pending), options.jobs or 0, shlex.split(options.sbatch))
    if options.slurm == "write":
        put(f"cd {shlex.quote(str(folder))} && SWEEP={shlex.quote(str(file))} {shlex.join(words)}")
    else:
        put(slurm.submit(words, file, folder))
    return OK


def _check_alone(options: Namespace) -> None:
    """Refuse what does not go together, and a sweep that a launcher started several times.

    Raises:
        ConfigurationError: It is so.
    """
    from hpc_localsgd.commands.sweep.processes import started_by_launcher

    launcher = started_by_launcher(os.environ)
    if launcher:
        raise ConfigurationError(
            f"{launcher} started this sweep several times: start it once, and it starts every run "
            "by --launch 'mpirun -np 2'"
        )
    if options.jobs is not None and options.jobs < 1:
        raise ConfigurationError(f"--jobs {options.jobs}: give at least one run at a time")
    if options.slurm and options.launch:
        raise ConfigurationError("--launch is of runs here; with --slurm the site file launches")
    if options.sbatch and not options.slurm:
        raise ConfigurationError("--sbatch has options of sbatch: add --slurm")


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Hold the folder of a sweep, so that no other sweep starts the same runs.

    Raises:
        ConfigurationError: Another one holds it, or it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / "sweep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write into {out}: {error.strerror}; give another --out"
        ) from error
    try:
        if lock(descriptor) is False:
            raise ConfigurationError(f"another sweep is at work in {out}: wait for it, or stop it")
        yield
    finally:
        os.close(descriptor)
