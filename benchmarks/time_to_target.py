"""Seconds to a target accuracy on an emulated network, beside what one would use instead.

    python -m benchmarks.time_to_target              # as root; 4 ranks on hosts joined by 1 Gb/s

A perceptron of 10.2 million parameters on Fashion-MNIST: `hvd.DistributedOptimizer`, DDP, both with
compression, and Post-local SGD by `attach` over Horovod and over Gloo. Target: 5 x sooner than the
best uncompressed, and sooner than the compressed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from importlib.metadata import version
from typing import Any

from benchmarks.netlab import Lab, LabError, network
from benchmarks.netlab.__main__ import describe, table
from benchmarks.side_by_side import write_report

# Name in the table -> what the rank runs, and by which launcher.
CONTESTANTS = {
    "hvd.DistributedOptimizer": ("horovod", "mpirun"),
    "the same, fp16": ("horovod_fp16", "mpirun"),
    "DDP": ("ddp", "torchrun"),
    "DDP, fp16 hook": ("ddp_fp16", "torchrun"),
    "DDP, PowerSGD hook": ("ddp_powersgd", "torchrun"),
    "attach, Post-local, Horovod": ("post_local", "mpirun"),
    "attach, Post-local, Gloo": ("post_local", "torchrun"),
}
PATIENCE_S = 900


def main() -> None:
    """Run every contestant with every seed, one after the other, and write the report."""
    options = _parser().parse_args()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.contestants}
    with Lab(network(options.network)) as lab:
        ways = table(lab.measured(), lab.delays_by)
        for seed in range(options.seeds):
            for name in options.contestants:
                found[name].append(run(lab, name, seed, options))
    parts = ["# Time to a target accuracy on an emulated network", describe(lab.network)]
    parts += [f"```\n{ways}\n```", f"Target: test accuracy {options.target:.2f}."]
    parts.append(rows(found))
    parts.append(f"Seeds: {options.seeds}; Horovod {version('horovod')}.")
    write_report("time_to_target", "\n\n".join(parts), {"runs": found})


def run(lab: Lab, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train once; NaN seconds where the target was not reached."""
    way, launcher = CONTESTANTS[name]
    command = ["-m", "benchmarks.target_ways", way, options.data, str(seed)]
    target = {"TIME_TO_TARGET": str(options.target)}
    try:
        said = lab.run(command, launcher, timeout_s=PATIENCE_S, environ=target).stdout
    except LabError as error:
        print(f"{name}, seed {seed}: {str(error)[:200]}", flush=True)
        return {"seconds": float("nan"), "failed": str(error)[:500]}
    line = next(line for line in said.splitlines() if line.startswith('{"rank"'))
    told = json.loads(line)
    steps, seconds, accuracy = told["looks"][-1]
    reached = accuracy >= options.target
    print(f"{name}, seed {seed}: {steps} steps, {seconds:.1f} s, {accuracy:.3f}", flush=True)
    return {
        "seconds": seconds if reached else float("nan"),
        "steps": steps,
        "step_ms": 1e3 * seconds / steps,
        "accuracy": accuracy,
        "memory_mb": told["memory_mb"],
    }


def rows(found: dict[str, list[dict[str, Any]]]) -> str:
    """Lay out the medians, with least and most over the seeds, as Markdown."""
    lines = ["| | s to the target | least - most | steps | a step, ms | memory, MB |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for name, runs in found.items():
        good = [run for run in runs if run["seconds"] == run["seconds"]]
        if not good:
            lines.append(f"| {name} | not reached | | | | |")
            continue
        seconds = [run["seconds"] for run in good]
        steps, ms, mb = (
            statistics.median(r[key] for r in good) for key in ("steps", "step_ms", "memory_mb")
        )
        lines.append(
            f"| {name} | {statistics.median(seconds):.1f} | {min(seconds):.1f} - "
            f"{max(seconds):.1f} | {steps:.0f} | {ms:.0f} | {mb:.0f} |"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="1gbit-4", help="a name or a file of netlab")
    parser.add_argument("--target", type=float, default=0.82)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist", metavar="FOLDER")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    return parser


if __name__ == "__main__":
    main()
