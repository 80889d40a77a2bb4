"""What simulated workers and plans cost against K: processor seconds and memory of whole commands.

    python -m benchmarks.scale

A worker's step of a simulated run is the difference between a long and a short run by the steps
and workers between them, so that the start is not in it. Plans, of 25 million parameters and 10 000
steps, are timed whole, with the start. Seconds are the processor's, of one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.reporting import write_report

WORKERS = (16, 128, 1024)
PLANNED = (1024, 65_536)
FEW = 16  # steps of the short run
WORKER_STEPS = 65_536  # by which the long run is longer, all workers together
MIXED = 8192  # workers that a plan with a topology takes
METHODS = {
    "local_sgd": [],
    "gossip, ring": ["--algorithm=gossip", "--algorithm.topology=ring"],
    "hierarchical": [
        "--algorithm=hierarchical",
        "--algorithm.blocks=[8]",
        "--algorithm.rounds=[4]",
    ],
}
RUN = (
    "--batch-per-worker=1 --task.hidden=32 --schedule=every --schedule.steps=8 --figures=false "
    "--evaluate-every=0 --world=simulated --checkpoint-every=0 --overwrite"
).split()
PLAN = "--parameters=25e6 --samples=1e9 --steps=10000 --schedule=every --schedule.steps=8".split()


@dataclass(frozen=True)
class Cost:
    """Of a command."""

    processor_s: float
    memory_bytes: int


def main() -> None:
    """Time all of them and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=list(WORKERS))
    parser.add_argument("--planned", type=int, nargs="+", default=list(PLANNED))
    options = parser.parse_args()
    runs = {
        f"{method}, {K}": simulated(K, METHODS[method])
        for method in ("local_sgd", "gossip, ring")
        for K in options.workers
    }
    plans = {
        f"{method}, {K}": cost(["plan", *PLAN, f"--workers={K}", *words])
        for method, words in METHODS.items()
        for K in options.planned
        if method != "gossip, ring" or K <= MIXED
    }
    parts = ["# Simulated workers and plans against their number", (__doc__ or "").split("\n\n")[2]]
    parts += [f"## Simulated runs\n\n{of_runs(runs)}", f"## Plans\n\n{of_plans(plans)}"]
    data = {"runs": {k: [asdict(c) for c in v] for k, v in runs.items()}}
    write_report(
        "scale", "\n\n".join(parts), {**data, "plans": {k: asdict(c) for k, c in plans.items()}}
    )


def simulated(K: int, words: Sequence[str]) -> list[Cost]:
    """Return the costs of a short and of a long run."""
    with TemporaryDirectory() as folder:
        out = f"--out={Path(folder) / 'run'}"
        run = ["train", *RUN, f"--workers={K}", out, *words]
        return [cost([*run, f"--steps={steps}"]) for steps in (FEW, FEW + WORKER_STEPS // K)]


def cost(words: Sequence[str]) -> Cost:
    """Run a command of the package, and return what the kernel counted of it."""
    command = [sys.executable, "-m", "hpc_localsgd", *words]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = subprocess.PIPE
    with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\n{said.decode()}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def of_runs(found: dict[str, list[Cost]]) -> str:
    """Lay out the simulated runs."""
    lines = [
        "| method, K | us of a worker's step | whole long run s | memory MB |",
        "|---|--:|--:|--:|",
    ]
    for name, (short, long) in found.items():
        step_s = (long.processor_s - short.processor_s) / WORKER_STEPS
        memory = long.memory_bytes / 1e6
        lines.append(f"| {name} | {1e6 * step_s:.0f} | {long.processor_s:.1f} | {memory:.0f} |")
    return "\n".join(lines)


def of_plans(found: dict[str, Cost]) -> str:
    """Lay out the plans."""
    lines = ["| method, K | processor s | memory MB |", "|---|--:|--:|"]
    for name, one in found.items():
        lines.append(f"| {name} | {one.processor_s:.1f} | {one.memory_bytes / 1e6:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
