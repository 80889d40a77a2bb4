"""`python -m hpc_localsgd report RUN [RUN ...]`: one page on runs, to share.

Needs h5py, numpy, matplotlib and jinja2: neither torch nor MPI nor the data of the run.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_localsgd.commands.exit_codes import CommandParser
from hpc_localsgd.commands.figure_options import add_figure_options
from hpc_localsgd.commands.output import put
from hpc_localsgd.commands.record_command import Misses, attempt

if TYPE_CHECKING:
    from hpc_localsgd.analysis.report.source import Source

PROG = "python -m hpc_localsgd report"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of the runs named; return the exit status, 2 for invalid input."""
    options = parser().parse_args(argv)
    return attempt(PROG, lambda: _report(options), writes=True)


def _report(options: Namespace) -> None:
    """Write the page, and again as long as its runs continue, if asked."""
    from hpc_localsgd.analysis.report.page import AGAIN_S

    files, going_on = _write(options)
    put(_said(files))
    misses = Misses()
    with suppress(KeyboardInterrupt):  # of who watches: the page is whole
        while going_on and options.watch:
            time.sleep(AGAIN_S)
            with misses.allowed():
                _, going_on = _write(options)


def _write(options: Namespace) -> tuple[list[Path], bool]:
    """Write the page and what is beside it; return the files, and whether a run continues."""
    from hpc_localsgd.analysis.own_files import REPORT
    from hpc_localsgd.analysis.report.page import write_report
    from hpc_localsgd.analysis.report.source import open_runs

    sources = open_runs(options.runs)
    beside = sources[0].folder if len(sources) == 1 else Path()
    folder = Path(options.out) if options.out else beside / REPORT
    files = write_report(sources, folder, options.formats, options.width)
    asked = sources if options.trace else []
    files += [_trace(source, i, folder, len(sources)) for i, source in enumerate(asked)]
    return files, any(source.run.status == "running" for source in sources)


def _said(files: list[Path]) -> str:
    """Say what was written, and what opens it."""
    traces = [file for file in files if file.suffix == ".json"]
    figures = len(files) - 1 - len(traces)
    beside = f" and {figures} figures beside it" if figures else ""
    how = "open it in https://ui.perfetto.dev or chrome://tracing"
    return "\n".join([f"{files[0]}{beside}", *(f"{trace}: {how}" for trace in traces)])


def _trace(source: Source, i: int, folder: Path, of: int) -> Path:
    """Write the timeline of a run beside the page; return the file."""
    from hpc_localsgd.analysis.trace import write_trace

    return write_trace(source.run, folder / (f"{i + 1}-trace.json" if of > 1 else "trace.json"))


def parser() -> CommandParser:
    """Return the parser of the command."""
    about = (
        "One page of HTML on a run, figures inside, that opens anywhere: plan against what "
        "happened, loss and accuracy against steps, epochs, bytes and seconds, spread, sharpness, "
        "who waited for whom, configuration, references. Runs that are in progress, were killed or "
        "have no snapshots are told about as far as their record goes."
    )
    made = CommandParser(prog=PROG, description=about)
    made.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or trajectory.h5")
    made.add_argument(
        "--out", metavar="FOLDER", help="folder of the page. Default: report/ in that of the run"
    )
    add_figure_options(made)
    made.add_argument(
        "--trace",
        action="store_true",
        help="also write the timeline of every worker as trace.json, for Perfetto or Chrome",
    )
    made.add_argument(
        "--watch",
        action="store_true",
        help="write the page again every minute until the runs have ended; an open page follows",
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
