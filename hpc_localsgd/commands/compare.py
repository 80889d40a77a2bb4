"""`python -m hpc_localsgd compare RUN RUN ...`: runs side by side.

Runs that differ in nothing but their seed are one configuration: mean and deviation.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from hpc_localsgd.commands.exit_codes import CommandParser
from hpc_localsgd.commands.figure_options import add_figure_options
from hpc_localsgd.commands.output import columns_of_output, put
from hpc_localsgd.commands.record_command import attempt

PROG = "python -m hpc_localsgd compare"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit status, 2 for invalid input."""
    options = parser().parse_args(argv)
    return attempt(PROG, lambda: _compare(options), writes=True)


def _compare(options: Namespace) -> None:
    """Print the tables, and write the page if asked."""
    from hpc_localsgd.analysis.compare.page import terminal, write_comparison
    from hpc_localsgd.analysis.report.source import open_runs

    sources = open_runs(options.runs)
    text = terminal(sources, columns_of_output())
    asked = (options.formats, options.width)
    files = write_comparison(sources, Path(options.out), *asked) if options.out else []
    put(text + (f"\n\n{files[0]}, and its figures and tables beside it" if files else ""))


def parser() -> CommandParser:
    """Return the parser of the command."""
    about = (
        "Runs side by side. Runs that differ in nothing but their seed are one configuration, and "
        "their numbers are given as mean and deviation. Shows what differs between "
        "configurations, the results, and the Pareto front of accuracy against communication."
    )
    made = CommandParser(prog=PROG, description=about)
    made.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or trajectory.h5")
    made.add_argument(
        "--out",
        metavar="FOLDER",
        help="also write a page, its figures, and its tables (CSV, Markdown, LaTeX) into it",
    )
    add_figure_options(made)
    return made


if __name__ == "__main__":
    sys.exit(main())
