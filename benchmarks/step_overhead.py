"""What a step costs between two syncs: the bare loop, `attach`, the trainer.

    python benchmarks/step_overhead.py

Two ranks under mpirun, H so long that nothing is sent. Target: at most 1.02 x the bare loop.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from loops import FOREVER
from models import SUBJECTS
from side_by_side import figures, started, table, take_turns, write_report

STEPS = {"conv": 100, "mlp": 20, "resnet18": 4, "resnet50": 1}  # of a turn
CONTESTANTS = ("bare", "attach", "trainer", "trainer_mpi")


def main() -> None:
    """Time all loops on all subjects and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    parts, data = ["# A step between two syncs"], {}
    for subject in options.subjects:
        commands = {
            name: ["benchmarks/loops.py", name, subject, str(FOREVER)]
            for name in options.contestants
        }
        with started(commands, options.ranks) as jobs:
            steps = dict.fromkeys(commands, STEPS[subject])
            times = take_turns(jobs, steps, options.rounds)
        found = figures(times, "bare")
        parts.append(f"## {subject}, {options.ranks} ranks\n\n{table(found, 'bare')}")
        data[subject] = {name: asdict(figure) for name, figure in found.items()}
    write_report("step_overhead", "\n\n".join(parts), data)


if __name__ == "__main__":
    main()
