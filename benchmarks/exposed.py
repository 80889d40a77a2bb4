"""What of the communication a step still shows, on an emulated network: hidden or not.

    python -m benchmarks.exposed              # as root; 4 ranks on hosts joined by 1 Gb/s

A perceptron of 10 million parameters on random images: parallel SGD, Local SGD, and the algorithms
whose average is under way while the next round computes, beside the same job without any exchange
before its end. Exposed is what a step takes longer than a step of that one. The number of local
steps is such that an average fits under the computing of a round. Methods are run in turns,
--turns times. Target: 5 % of a step at most. Writes benchmarks/reports/exposed.md.
"""

from __future__ import annotations

import argparse
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.netlab import Lab, network
from benchmarks.netlab.__main__ import describe, table
from benchmarks.scaling import ALWAYS, PATIENCE_S, WARM_UP
from benchmarks.side_by_side import write_report
from hpc_localsgd.analysis.costs import round_s
from hpc_localsgd.trajectory import Trajectory

MODEL = (
    "--task=synthetic_images --task.model=mlp2800 --task.size=28 --task.channels=1 "
    "--task.classes=10 --task.samples=4096 --task.augment=false"
)
NOTHING = "no exchange"
METHODS = {
    NOTHING: "--algorithm=local_sgd --schedule=every --schedule.steps={steps}",
    "parallel SGD": "--algorithm=allreduce --schedule=every",
    "Local SGD": "--algorithm=local_sgd --schedule=every --schedule.steps={H}",
    "CoCoD-SGD": "--algorithm=cocod --schedule=every --schedule.steps={H}",
    "Overlap-Local-SGD": "--algorithm=overlap --schedule=every --schedule.steps={H}",
}


def main() -> None:
    """Run every method in turns, and write the report."""
    options = _parser().parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    with Lab(network(options.network)) as lab:
        ways = table(lab.measured(), lab.delays_by)
        for _ in range(options.turns):
            for name in METHODS:
                found[name].append(step_of(lab, name, options))
                print(f"{name}: {1e3 * found[name][-1][0]:.0f} ms a step", flush=True)
    parts = ["# Communication that a step shows", describe(lab.network), f"```\n{ways}\n```"]
    parts.append(f"Model: `{MODEL}`; batch {options.batch} a worker; H = {options.every}.")
    write_report(options.name, "\n\n".join([*parts, rows(found)]), {"turns": found})


def step_of(lab: Lab, name: str, options: argparse.Namespace) -> tuple[float, float]:
    """Run a method once.

    Returns:
        Seconds of a step, the median over rounds after the first fifth of the run; and the part of
        them in which the mean worker waited or transferred, as the run recorded it.
    """
    method = METHODS[name].format(H=options.every, steps=options.steps)
    with TemporaryDirectory() as folder:
        words = [*MODEL.split(), *ALWAYS.split(), *method.split(), f"--steps={options.steps}"]
        words += [f"--batch-per-worker={options.batch}", f"--out={folder}"]
        lab.run(["-m", "hpc_localsgd.train", *words], options.launcher, timeout_s=PATIENCE_S)
        run = Trajectory(folder)
    rounds, seconds = run.rounds, round_s(run)
    steps = rounds.step_end - rounds.step_begin
    if name == NOTHING:  # one round: what it computed, its end left out
        return float(np.nan_to_num(rounds.compute_s).max(axis=1).sum() / steps.sum()), 0.0
    late = rounds.step_begin >= WARM_UP * options.steps
    late[-1] = False  # waits for what is under way
    talked = (np.nan_to_num(rounds.wait_s) + np.nan_to_num(rounds.transfer_s)).mean(axis=1)
    return float(np.median((seconds / steps)[late])), float(np.median((talked / seconds)[late]))


def rows(found: dict[str, list[tuple[float, float]]]) -> str:
    """Lay the medians over the turns out as Markdown."""
    lines = ["| | a step, ms | least - most | exposed | waiting and transferring, recorded |"]
    lines.append("|---|--:|--:|--:|--:|")
    bare = [step for step, _ in found[NOTHING]]
    for name, turns in found.items():
        ms = [1e3 * step for step, _ in turns]
        exposed = median((step - b) / step for (step, _), b in zip(turns, bare, strict=True))
        recorded = median(part for _, part in turns)
        lines.append(
            f"| {name} | {median(ms):.0f} | {min(ms):.0f} - {max(ms):.0f} "
            f"| {exposed:.1%} | {recorded:.1%} |"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="1gbit-4", help="a name or a file of netlab")
    parser.add_argument("--launcher", default="mpirun", help="of netlab: mpirun, torchrun")
    parser.add_argument("--every", type=int, default=16, help="H of the local methods")
    parser.add_argument("--batch", type=int, default=16, help="samples a worker takes in a step")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--name", default="exposed", help="of the report")
    return parser


if __name__ == "__main__":
    main()
