"""Training steps side by side with what one would use instead, and the average by itself.

    python benchmarks/alternatives.py

Two ranks under mpirun. H = 1 (parallel SGD): `attach`, the trainer, `hvd.DistributedOptimizer` and
`DistributedDataParallel`. H = 8: `attach`, the trainer, `PostLocalSGDOptimizer` and accelerate's
LocalSGD (where `pip install accelerate` was done). Then the average of 25 million numbers on 2 and
4 ranks. Targets: H = 1 not slower than either, H = 8 faster than both, the average at most 1.05 x
the better of MPI_Allreduce and Horovod's all-reduce.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from mean import WAYS, P
from reporting import write_report
from side_by_side import Figure, figures, free_port, hear_end, started, table, take_turns

STEPS = {"conv": 80, "mlp": 16, "resnet18": 8}  # of a turn; multiples of 8
LOOPS = {
    1: ("bare", "attach", "trainer", "trainer_mpi", "horovod", "ddp"),
    8: ("bare", "attach", "trainer", "trainer_mpi", "post_local", "accelerate"),
}
WITHOUT_US = {"HOROVOD_IDLE_CYCLE_TIME": "0"}  # Horovod's thread as its release has it


def main() -> None:
    """Time everything and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--subjects", nargs="*", default=list(STEPS), choices=STEPS)
    parser.add_argument("--mean-ranks", nargs="*", type=int, default=[2, 4])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--name", default="alternatives", help="of the report")
    options = parser.parse_args()
    parts, data = ["# Side by side with the alternatives"], {}
    for H, loops in LOOPS.items():
        for subject in options.subjects:
            found = time_steps(_installed(loops), subject, H, options.rounds)
            parts.append(f"## A step of {subject}, H = {H}\n\n{table(found, 'bare')}")
            data[f"{subject}, H={H}"] = {name: asdict(f) for name, f in found.items()}
    for ranks in options.mean_ranks:
        found, grown = time_means(ranks, options.rounds)
        memory = ", ".join(f"{name} {mb:.0f} MB" for name, mb in grown.items())
        parts.append(
            f"## The average of {P // 10**6} million float32 on {ranks} ranks\n\n"
            f"{table(found, 'mpi')}\n\nPeak memory grew by: {memory}."
        )
        data[f"mean, {ranks} ranks"] = {name: asdict(f) for name, f in found.items()}
        data[f"memory, {ranks} ranks"] = grown
    write_report(options.name, "\n\n".join(parts), data)


def time_steps(loops: Sequence[str], subject: str, H: int, rounds: int) -> dict[str, Figure]:
    """Time a step of each loop with 2 ranks."""
    commands = {name: ["benchmarks/loops.py", name, subject, str(H)] for name in loops}
    with started(commands, 2, {name: _environ(name) for name in loops}) as jobs:
        times = take_turns(jobs, dict.fromkeys(loops, STEPS[subject]), rounds)
    return figures(times, "bare")


def time_means(ranks: int, rounds: int) -> tuple[dict[str, Figure], dict[str, float]]:
    """Time the average, and measure by how many MB the memory of a rank grows meanwhile."""
    commands = {name: ["benchmarks/mean.py", name] for name in WAYS}
    with started(commands, ranks, {name: _environ(name) for name in WAYS}) as jobs:
        times = take_turns(jobs, dict.fromkeys(WAYS, 4), rounds)
        grown = {job.name: max(hear_end(job)) for job in jobs}
    return figures(times, "mpi"), grown


def _environ(name: str) -> dict[str, Any]:
    port = {"SIDE_BY_SIDE_PORT": str(free_port())}
    return port | (WITHOUT_US if name == "horovod" else {})


def _installed(loops: Sequence[str]) -> list[str]:
    return [name for name in loops if name != "accelerate" or find_spec("accelerate")]


if __name__ == "__main__":
    main()
