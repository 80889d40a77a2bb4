"""`python -m hpc_localsgd compare RUN RUN ...`: runs side by side.

Runs that differ in nothing but their seed are one configuration: mean and deviation.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hpc_localsgd.commands.exit_codes import FAULT, OK, CommandParser, complain
from hpc_localsgd.trajectory import TrajectoryError

PROG = "python -m hpc_localsgd compare"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit status, 2 for invalid input."""
    options = parser().parse_args(argv)
    from hpc_localsgd.analysis.compare.page import terminal, write_comparison
    from hpc_localsgd.analysis.report.source import open_runs

    try:
        sources = open_runs(options.runs)
        coloured = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if coloured else 160
        text = terminal(sources, coloured=coloured, width=max(width, 80))
        files = write_comparison(sources, Path(options.out)) if options.out else []
    except TrajectoryError as error:
        complain(str(error), PROG)
        return FAULT
    except OSError as error:
        complain(f"cannot write {error.filename}: {error.strerror}; give --out a folder", PROG)
        return FAULT
    text += f"\n\n{files[0]}, and its figures and tables beside it" if files else ""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    return OK


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
        help="also write a page, its figures, and its tables (CSV, Markdown, LaTeX) into it",
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
