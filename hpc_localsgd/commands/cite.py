"""`python -m hpc_localsgd cite RUN [RUN ...]`: the papers that a run builds on.

Needs h5py, numpy and PyYAML.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpc_localsgd.commands.exit_codes import CommandParser
from hpc_localsgd.commands.output import put
from hpc_localsgd.commands.record_command import attempt

if TYPE_CHECKING:
    from hpc_localsgd.analysis.references import Used

PROG = "python -m hpc_localsgd cite"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the references; return the exit status, 2 for invalid input."""
    options = parser().parse_args(argv)
    return attempt(PROG, lambda: put(_cited(options)))


def _cited(options: Namespace) -> str:
    from hpc_localsgd.analysis.references import used_by
    from hpc_localsgd.analysis.report.source import open_runs

    found: list[Used] = []
    for source in open_runs(options.runs):
        found += [each for each in used_by(*source.files) if each not in found]
    return _bibtex(found) if options.bibtex else _plain(found)


def _plain(found: list[Used]) -> str:
    """Format each item with its papers below it, then the items that have none."""
    lines = []
    for each in found:
        if each.papers:
            lines.append(f"{each.option} {each.name}")
            lines += [f"    {paper.text}" for paper in each.papers]
    common = [f"{e.option} {e.name}" for e in found if e.known and not e.papers]
    strange = [f"{e.option} {e.name}" for e in found if not e.known]
    if common:
        lines += ["", f"Common knowledge, without a reference: {', '.join(common)}."]
    if strange:
        lines += ["", f"Not in the package's table, look yourself: {', '.join(strange)}."]
    return "\n".join(lines)


def _bibtex(found: list[Used]) -> str:
    """Format the entries in BibTeX, with comments that say what each is for."""
    from hpc_localsgd.analysis.references.used import papers_of

    entries = []
    for paper in papers_of(found):
        what = ", ".join(f"{e.option} {e.name}" for e in found if paper in e.papers)
        entries.append(f"% {what}\n{paper.bibtex}")
    return "\n\n".join(entries)


def parser() -> CommandParser:
    """Return the parser of the command."""
    about = (
        "The papers that a run builds on: algorithm, schedule, rate, gradient, compressor, "
        "topology, optimiser, and what was measured of it."
    )
    made = CommandParser(prog=PROG, description=about)
    made.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or trajectory.h5")
    made.add_argument("--bibtex", action="store_true", help="as BibTeX")
    return made


if __name__ == "__main__":
    sys.exit(main())
