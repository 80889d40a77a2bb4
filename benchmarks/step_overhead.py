"""What a step costs between two syncs: the bare loop, `attach`, the trainer.

    python benchmarks/step_overhead.py

Two ranks under mpirun, H so long that nothing is sent. Target: at most 1.02 x the bare loop.

    python benchmarks/step_overhead.py --device cuda --ranks 1 --contestants bare attach trainer

is the same on one GPU (NCCL takes one rank a GPU), and with `--every 1` the parallel phase, beside
`hvd.DistributedOptimizer` (`horovod`): what hooks and launches cost the host, not the network.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

from loops import FOREVER
from models import SUBJECTS
from side_by_side import figures, started, table, take_turns, write_report

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
    options = parser.parse_args()
    os.environ["SIDE_BY_SIDE_DEVICE"] = options.device  # the ranks inherit it
    on_cpu = options.device == "cpu"
    between = options.every == FOREVER
    title = "A step between two syncs" if between else f"A step, H = {options.every}"
    parts, data = [f"# {title}{'' if on_cpu else ', on one GPU'}"], {}
    for subject in options.subjects:
        commands = {
            name: ["benchmarks/loops.py", name, subject, str(options.every)]
            for name in options.contestants
        }
        with started(commands, options.ranks) as jobs:
            steps = dict.fromkeys(commands, (STEPS if on_cpu else ON_GPU)[subject])
            times = take_turns(jobs, steps, options.rounds)
        found = figures(times, "bare")
        parts.append(f"## {subject}, {options.ranks} ranks\n\n{table(found, 'bare')}")
        data[subject] = {name: asdict(figure) for name, figure in found.items()}
    name = "step_overhead" if between else f"step_every_{options.every}"
    write_report(name if on_cpu else f"{name}_gpu", "\n\n".join(parts), data)


if __name__ == "__main__":
    main()
