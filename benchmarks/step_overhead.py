"""What a step costs between two syncs: the bare loop, `attach`, the trainer.

    python benchmarks/step_overhead.py

Two ranks under mpirun, H so long that nothing is sent. Target: at most 1.02 x the bare loop.

    python benchmarks/step_overhead.py --device cuda --ranks 1 --contestants bare attach trainer

is the same on one GPU (NCCL takes one rank a GPU), and with `--every 1` the parallel phase, beside
`hvd.DistributedOptimizer` (`horovod`): what hooks and launches cost the host, not the network.

    git worktree add ../before COMMIT
    python benchmarks/step_overhead.py --every 1 --contestants attach --before ../before

compares `attach` with itself in another commit (`attach before`): each turn of the one is divided
by the turn of the other beside it.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from loops import FOREVER
from models import SUBJECTS
from reporting import commit_of, write_report
from side_by_side import figures, started, table, take_turns

STEPS = {"conv": 100, "mlp": 20, "resnet18": 4, "resnet50": 1}  # of a turn
ON_GPU = {"conv": 200, "mlp": 200, "resnet18": 60, "resnet50": 10}
CONTESTANTS = ("bare", "attach", "trainer", "trainer_mpi")


def main() -> None:
    """Time all loops on all subjects and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--every", type=int, default=FOREVER, help="H, steps of a round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--before", type=Path, help="another checkout, to time its attach beside")
    parser.add_argument("--steps", type=int, help="of a turn")
    options = parser.parse_args()
    os.environ["SIDE_BY_SIDE_DEVICE"] = options.device  # the ranks inherit it
    on_cpu = options.device == "cpu"
    between = options.every == FOREVER
    title = "A step between two syncs" if between else f"A step, H = {options.every}"
    data: dict[str, object] = {}
    parts = [f"# {title}{'' if on_cpu else ', on one GPU'}"]
    against = "attach before" if options.before else "bare"
    older = {against: {"PYTHONPATH": str(options.before)}} if options.before else {}
    for subject in options.subjects:
        commands = {
            name: ["benchmarks/loops.py", name.split()[0], subject, str(options.every)]
            for name in [*options.contestants, *older]
        }
        with started(commands, options.ranks, older) as jobs:
            steps = options.steps or (STEPS if on_cpu else ON_GPU)[subject]
            times = take_turns(jobs, dict.fromkeys(commands, steps), options.rounds)
        found = figures(times, against)
        parts.append(f"## {subject}, {options.ranks} ranks\n\n{table(found, against)}")
        data[subject] = {name: asdict(figure) for name, figure in found.items()}
    name = "step_overhead" if between else f"step_every_{options.every}"
    name = f"{name}_before_and_after" if options.before else name
    if options.before:
        data["before"] = commit_of(options.before)
        parts.append(f"`{against}` is commit {data['before']}.")
    write_report(name if on_cpu else f"{name}_gpu", "\n\n".join(parts), data)


if __name__ == "__main__":
    main()
