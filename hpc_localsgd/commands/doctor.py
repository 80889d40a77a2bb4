"""Say what is wrong with this machine or this launch, and what to type.

    python -m hpc_localsgd doctor
    mpirun -np 2 python -m hpc_localsgd doctor        # or horovodrun, or srun --mpi=pmix

Every rank contributes what it sees, rank 0 prints, and all of them leave with the same exit
status: 1 when there is a problem, else 0.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from hpc_localsgd.commands.exit_codes import CommandParser
from hpc_localsgd.commands.output import put
from hpc_localsgd.engine.finding import OK, PROBLEM, WARNING, Finding
from hpc_localsgd.environment import doctor_report
from hpc_localsgd.environment.checks import ON_EACH
from hpc_localsgd.environment.facts import Facts
from hpc_localsgd.environment.gather_facts import gather_facts
from hpc_localsgd.environment.launch_checks import ON_ALL

_SERIOUS = (OK, WARNING, PROBLEM)


def main(argv: list[str] | None = None) -> int:
    """Examine, print on rank 0, and return the exit status."""
    options = parser().parse_args(argv)
    everyone, own_rank = gather_facts(os.environ)
    found = examine(everyone)
    if own_rank == 0:
        put(doctor_report.as_json(found) if options.json else doctor_report.as_table(found))
    return doctor_report.exit_status(found)


def parser() -> CommandParser:
    """Return the parser of the command."""
    made = CommandParser.documented("python -m hpc_localsgd doctor", __doc__)
    made.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    return made


def examine(everyone: Sequence[Facts]) -> list[Finding]:
    """Return all findings: the worst rank's of the software, then those on the launch."""
    return [worst(check, everyone) for check in ON_EACH] + [check(everyone) for check in ON_ALL]


def worst(check: Callable[[Facts], Finding], everyone: Sequence[Facts]) -> Finding:
    """Return the most serious finding of one check over all ranks, and whose it is."""
    found = [check(facts) for facts in everyone]
    chosen = max(range(len(found)), key=lambda i: _SERIOUS.index(found[i].level))
    finding, facts = found[chosen], everyone[chosen]
    if finding.level == OK or len(everyone) == 1:
        return finding
    return replace(finding, text=f"{finding.text} (rank {facts.rank} on {facts.host})")


if __name__ == "__main__":
    sys.exit(main())
