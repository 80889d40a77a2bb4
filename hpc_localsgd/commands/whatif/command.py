"""What a recorded run would have cost with another H, number of workers, method or network.

    python -m hpc_localsgd whatif runs/digits --fabric 1GbE 100GbE --every 1 8 64
    python -m hpc_localsgd whatif runs/digits --workers 64 4096 --fabric 100GbE,trunk=25GB/s/32
    python -m hpc_localsgd whatif runs/digits --algorithm local_sgd gossip --topology ring
    python -m hpc_localsgd whatif runs/digits --compressor null sign -- --schedule qsr

All combinations, a line each. Steps take as long as they did in the run, and the slowest of more
workers is waited for by their spread; exchanges are acted out by the cost model. Accuracy is not
predicted: train for that.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc_localsgd.commands.exit_codes import FAULT, CommandParser, complain
from hpc_localsgd.commands.output import columns_of_output, put
from hpc_localsgd.commands.record_command import attempt
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.commands.whatif.answers import Question
    from hpc_localsgd.commands.whatif.basis import Basis

PROG = "python -m hpc_localsgd whatif"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answers; return the exit status, 2 for invalid input."""
    share_cores(os.environ)  # before torch is imported
    words = sys.argv[1:] if argv is None else list(argv)
    at = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:at])
    try:
        return attempt(PROG, lambda: put(whatif(options, words[at + 1 :])), writes=True)
    except ConfigurationError as error:
        complain(str(error), PROG)
        return FAULT


def whatif(options: argparse.Namespace, words: Sequence[str]) -> str:
    """Return the page of answers, and write the tables if asked.

    Args:
        options: Of this command.
        words: Options of a run that hold for all answers.

    Raises:
        ConfigurationError: The record cannot be gone by, or what is asked is not a run.
    """
    import torch

    from hpc_localsgd.analysis.own_files import put_table
    from hpc_localsgd.commands.whatif.answers import answers
    from hpc_localsgd.commands.whatif.basis import basis
    from hpc_localsgd.commands.whatif.page import HEADS, as_csv, as_markdown, page
    from hpc_localsgd.trajectory import Trajectory

    torch.set_num_threads(1)  # many tiny exchanges are rehearsed: threads are in each other's way
    known = basis(Trajectory(options.run), options.trust, options.step_time)
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(options.out or temporary).absolute() / "simgrid"
        asked = question(known, options, words)
        if options.simgrid:
            asked = by_simgrid_too(asked, kept)
        found = list(answers(known, asked))
    text = page(known, found, columns_of_output())
    if options.out:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        put_table(folder / "whatif.csv", as_csv(found), HEADS["csv"])
        put_table(folder / "whatif.md", as_markdown(known, found), HEADS["md"])
        text += f"\n\n{folder / 'whatif.csv'} and whatif.md beside it"
    return text


def question(known: Basis, options: argparse.Namespace, words: Sequence[str]) -> Question:
    """Return what is asked.

    Raises:
        ConfigurationError: Numbers below 1, or networks that do not exist.
    """
    from hpc_localsgd.commands.configuration.value_checks import MOST_WORKERS
    from hpc_localsgd.commands.whatif.answers import Question
    from hpc_localsgd.commands.whatif.networks import RECORDED, network_of

    for name in ("workers", "every"):
        if wrong := [n for n in getattr(options, name) if n < 1]:
            raise ConfigurationError(f"--{name} {wrong[0]}: give 1 or more")
    if options.step_time is not None and not 0 < options.step_time < math.inf:
        raise ConfigurationError(f"--step-time must be positive, got {options.step_time:g}")
    kinds = {
        "--algorithm": options.algorithm,
        "--algorithm.topology": options.topology,
        "--algorithm.compressor": options.compressor,
    }
    chosen = [[f"{option}={value}" for value in values] or [""] for option, values in kinds.items()]
    methods = [[*filter(None, picked), *words] for picked in product(*chosen)]
    networks = [network_of(known, name) for name in options.fabric or [RECORDED]]
    workers = options.workers or [known.run.K]
    if max(workers) > MOST_WORKERS:
        raise ConfigurationError(f"--workers {max(workers)}: give at most {MOST_WORKERS}")
    return Question(networks, workers, options.every, methods, options.scaling == "strong")


def by_simgrid_too(asked: Question, folder: Path) -> Question:
    """Return the question with each network twice: by the cost model, and by SimGrid.

    Raises:
        ConfigurationError: SimGrid is not here.
    """
    from hpc_localsgd.commands.whatif.replay import replayed
    from hpc_localsgd.cost import simgrid

    simgrid.check_installed()
    both = [
        (network, replayed(network, folder / str(i))) for i, network in enumerate(asked.networks)
    ]
    return replace(asked, networks=[network for pair in both for network in pair])


def parser() -> CommandParser:
    """Return the parser of the command."""
    made = CommandParser.documented(
        PROG, __doc__, usage="%(prog)s RUN [options] [-- options of a run]"
    )
    made.add_argument("run", metavar="RUN", help="folder of a run, or trajectory.h5")
    several: dict[str, Any] = {"nargs": "+", "default": []}
    made.add_argument(
        "--fabric",
        **several,
        metavar="NETWORK",
        help="as of plan; recorded (default): the run's own, as it was measured",
    )
    made.add_argument("--workers", type=int, **several, metavar="K", help="default: those it had")
    made.add_argument("--every", type=int, **several, metavar="H", help="local steps in a round")
    made.add_argument("--algorithm", **several, metavar="NAME", help="as --algorithm of train")
    made.add_argument("--topology", **several, metavar="NAME", help="of an algorithm that has one")
    made.add_argument(
        "--compressor", **several, metavar="NAME", help="of an algorithm that takes one; null: none"
    )
    made.add_argument(
        "--scaling",
        choices=("weak", "strong"),
        default="weak",
        help="of other numbers of workers: each steps as often as in the run (weak, default), or "
        "they share its samples in fewer steps",
    )
    made.add_argument(
        "--step-time", type=float, metavar="SECONDS", help="of a step, in place of the recorded"
    )
    made.add_argument(
        "--simgrid",
        action="store_true",
        help="also replay every exchange in SimGrid, message by message, where it is installed",
    )
    made.add_argument("--out", metavar="FOLDER", help="also write the table: CSV and Markdown")
    made.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="that the record may name, beside this package and torch",
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
