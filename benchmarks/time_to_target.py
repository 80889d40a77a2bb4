"""Seconds to a target accuracy on an emulated network, beside what one would use instead.

    python -m benchmarks.time_to_target              # as root; 4 ranks on hosts joined by 1 Gb/s

A perceptron of 10.2 million parameters on Fashion-MNIST: `hvd.DistributedOptimizer`, DDP, both with
compression, and Post-local SGD by `attach` over Horovod and over Gloo. All are stopped where they
have the last of the targets. A run that is complete is kept in --kept, and the report is written
after each: started again, the script does what is left. Wanted: 5 x sooner than the best
uncompressed, and sooner than the compressed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.netlab import Lab, LabError, network
from benchmarks.netlab.__main__ import describe, table
from benchmarks.reporting import ROOT, write_report
from benchmarks.target_ways import SWITCH, H

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
OURS = "attach, Post-local, Gloo"
PATIENCE_S = 900
SETTING = (
    f"Post-local SGD has {SWITCH} parallel steps and H = {H} then, set by a seed that is not among "
    "these; PowerSGD has as many exact steps. All look at the test set after the same steps, and a "
    f"target is reached at the first look that has it. x {OURS}: seconds over those, seed by seed."
)


def main() -> None:
    """Run every contestant with every seed that is not kept, and write the report after each."""
    options = _parser().parse_args()
    kept = Kept(Path(options.kept), setting(options))
    with Lab(network(options.network)) as lab:
        ways = table(lab.measured(), lab.delays_by)
        head = ["# Time to a target accuracy on an emulated network", describe(lab.network)]
        head += [f"```\n{ways}\n```", SETTING]
        for seed in range(options.seeds):
            for name in options.contestants:
                if seed not in kept.seeds(name):
                    kept.add(name, seed, run(lab, name, seed, options))
                    report(head, kept.runs, options.targets)
    report(head, kept.runs, options.targets)


def report(
    head: Sequence[str],
    runs: Mapping[str, Sequence[dict[str, Any]]],
    targets: Sequence[float],
) -> None:
    """Write what is there so far."""
    found = {name: list(runs[name]) for name in CONTESTANTS if name in runs}
    parts = [*head, rows(found, targets), f"Horovod {version('horovod')}."]
    write_report("time_to_target", "\n\n".join(parts), {"runs": found})


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs of a report have in common, the code of the package included."""
    return {
        "package": tree_of_package(),
        "network": options.network,
        "target": max(options.targets),
        "data": options.data,
        "ways": sha256((Path(__file__).with_name("target_ways.py")).read_bytes()).hexdigest(),
    }


def tree_of_package() -> str:
    """Return git's name for what the package has now, wherever HEAD is, and for its changes."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout

    diff = git("diff", "HEAD", "--", "hpc_localsgd")
    return git("rev-parse", "HEAD:hpc_localsgd").strip() + sha256(diff.encode()).hexdigest()[:8]


class Kept:
    """Complete runs of one setting in a file; those of another setting are set aside."""

    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        self._file, self._about = file, about
        said = json.loads(file.read_text()) if file.exists() else {}
        same = said.get("about") == about
        if said and not same:
            file.replace(file.with_suffix(".before.json"))
        self.runs: dict[str, list[dict[str, Any]]] = said["runs"] if same else {}

    def seeds(self, name: str) -> set[int]:
        """Return the seeds with which a contestant has run."""
        return {run["seed"] for run in self.runs.get(name, [])}

    def add(self, name: str, seed: int, run: dict[str, Any]) -> None:
        """Keep a run, unless it failed: that is tried again."""
        if "failed" in run:
            return
        self.runs.setdefault(name, []).append({"seed": seed, **run})
        self._file.parent.mkdir(parents=True, exist_ok=True)
        whole = self._file.with_suffix(".new")
        whole.write_text(json.dumps({"about": self._about, "runs": self.runs}, indent=1))
        whole.replace(self._file)


def run(lab: Lab, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train once, until the last target is reached."""
    way, launcher = CONTESTANTS[name]
    command = ["-m", "benchmarks.target_ways", way, options.data, str(seed)]
    target = {"TIME_TO_TARGET": str(max(options.targets))}
    try:
        said = lab.run(command, launcher, timeout_s=PATIENCE_S, environ=target).stdout
    except LabError as error:
        print(f"{name}, seed {seed}: {str(error)[:200]}", flush=True)
        return {"failed": str(error)[:500]}
    told = json.loads(next(line for line in said.splitlines() if line.startswith('{"rank"')))
    steps, seconds, accuracy = told["looks"][-1]
    print(f"{name}, seed {seed}: {steps} steps, {seconds:.1f} s, {accuracy:.3f}", flush=True)
    return {"looks": told["looks"], "memory_mb": told["memory_mb"]}


def reached(run: Mapping[str, Any], target: float) -> tuple[int, float] | None:
    """Return the steps and the seconds to the first look at which a run had the target."""
    return next(((s, t) for s, t, accuracy in run["looks"] if accuracy >= target), None)


def rows(found: Mapping[str, Sequence[dict[str, Any]]], targets: Sequence[float]) -> str:
    """Lay out the medians, with least and most over the seeds, as Markdown: a table a target."""
    tables = []
    for target in targets:
        lines = [f"## To a test accuracy of {target:.0%}\n"]
        lines.append(f"| | seeds | s | least - most | x {OURS} | steps | a step, ms | memory, MB |")
        lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
        ours = {r["seed"]: reached(r, target) for r in found.get(OURS, [])}
        lines += [row(name, runs, target, ours) for name, runs in found.items()]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def row(
    name: str,
    runs: Sequence[dict[str, Any]],
    target: float,
    ours: Mapping[int, tuple[int, float] | None],
) -> str:
    """Lay out one contestant; ratios are of runs with the same seed."""
    good = {r["seed"]: at for r in runs if (at := reached(r, target))}
    if not good:
        return f"| {name} | 0 of {len(runs)} | not reached | | | | | |"
    seconds = [t for _, t in good.values()]
    ratios = [t / theirs[1] for seed, (_, t) in good.items() if (theirs := ours.get(seed))]
    step_ms = 1e3 * statistics.median(t / s for s, t in good.values())
    cells = [
        name,
        f"{len(good)} of {len(runs)}",
        f"{statistics.median(seconds):.1f}",
        f"{min(seconds):.1f} - {max(seconds):.1f}",
        " ".join(f"{ratio:.1f}" for ratio in ratios),
        f"{statistics.median(s for s, _ in good.values()):.0f}",
        f"{step_ms:.0f}",
        f"{statistics.median(r['memory_mb'] for r in runs):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="1gbit-4", help="a name or a file of netlab")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.82, 0.85])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist", metavar="FOLDER")
    parser.add_argument("--kept", default="runs/time_to_target.json", metavar="FILE")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    return parser


if __name__ == "__main__":
    main()
