"""What of the communication a step still shows, on an emulated network: hidden or not.

    python -m benchmarks.exposed              # as root; 2 ranks on hosts joined by 1 Gb/s

A perceptron of 10 million parameters on random images: parallel SGD, Local SGD, and the algorithms
whose average is under way while the next round computes, beside the same job without any exchange.
Two figures that check each other: how much longer a step is than one of that job (with all that an
exchange takes from the processor, which the network's emulation shares), and the part of it that
the run's own ledger has as waiting and transferring. A third is what the cable needs for the bytes,
if nothing else took time: who is below it did not send them meanwhile. Methods are run in turns.
Target: 5 % of a step at most, at an H whose round is longer than the transfer. Writes
benchmarks/reports/exposed.md.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.netlab import Lab, network
from benchmarks.netlab.__main__ import describe, table
from benchmarks.reporting import write_report
from benchmarks.scaling import ALWAYS, PATIENCE_S
from hpc_localsgd.analysis.costs import round_s
from hpc_localsgd.trajectory import Trajectory

MODEL = (
    "--task=synthetic_images --task.model=mlp2800 --task.size=28 --task.channels=1 "
    "--task.classes=10 --task.samples=4096 --task.augment=false"
)
NOTHING, PARALLEL = "no exchange", "parallel SGD"
# The first has a few parallel steps to warm up, then one round until the end.
METHODS = {
    NOTHING: "--algorithm=local_sgd --schedule=post_local --schedule.switch=4 "
    "--schedule.every={steps}",
    PARALLEL: "--algorithm=allreduce --schedule=every",
    "Local SGD": "--algorithm=local_sgd --schedule=every --schedule.steps={H}",
    "CoCoD-SGD": "--algorithm=cocod --schedule=every --schedule.steps={H}",
    "Overlap-Local-SGD": "--algorithm=overlap --schedule=every --schedule.steps={H}",
}


@dataclass(frozen=True)
class Step:
    """What a step took, in the median over rounds.

    Attributes:
        seconds: All of it.
        recorded: The part in which the mean worker waited or transferred, as the run has it.
        sent_bytes: On the wire, by a rank.
    """

    seconds: float
    recorded: float
    sent_bytes: float


def main() -> None:
    """Run every method in turns, and write the report."""
    options = _parser().parse_args()
    found: dict[str, list[Step]] = {name: [] for name in METHODS}
    with Lab(network(options.network)) as lab:
        ways = table(lab.measured(), lab.delays_by)
        for _ in range(options.turns):
            for name in METHODS:
                found[name].append(step_of(lab, name, options))
                print(f"{name}: {1e3 * found[name][-1].seconds:.0f} ms a step", flush=True)
        rate = lab.network.link.bytes_per_s
        parts = ["# Communication that a step shows", describe(lab.network), f"```\n{ways}\n```"]
    parts.append(f"Model: `{MODEL}`; batch {options.batch} a worker; H = {options.every}.")
    turns = {name: [asdict(step) for step in steps] for name, steps in found.items()}
    write_report(options.name, "\n\n".join([*parts, rows(found, rate), MEANING]), {"turns": turns})


def step_of(lab: Lab, name: str, options: argparse.Namespace) -> Step:
    """Run a method once, and read its record: rounds in the middle of the run."""
    steps = options.parallel_steps if name == PARALLEL else options.rounds * options.every
    method = METHODS[name].format(H=options.every, steps=steps)
    with TemporaryDirectory() as folder:
        words = [*MODEL.split(), *ALWAYS.split(), *method.split(), f"--steps={steps}"]
        words += [f"--batch-per-worker={options.batch}", f"--out={folder}"]
        lab.run(["-m", "hpc_localsgd.train", *words], options.launcher, timeout_s=PATIENCE_S)
        run = Trajectory(folder)
        rounds, seconds = run.rounds, round_s(run)
    length = rounds.step_end - rounds.step_begin
    if name == NOTHING:  # the last round, without the exchange at its end
        return Step(float(np.nan_to_num(rounds.compute_s[-1]).max() / length[-1]), 0.0, 0.0)
    talked = (np.nan_to_num(rounds.wait_s) + np.nan_to_num(rounds.transfer_s)).mean(axis=1)
    sent = np.nan_to_num(rounds.wire_bytes).mean(axis=1)
    middle = slice(1, -1)  # the first warms up, the last waits for what is under way
    return Step(
        float(np.median((seconds / length)[middle])),
        float(np.median((talked / seconds)[middle])),
        float(np.median((sent / length)[middle])),
    )


def rows(found: dict[str, list[Step]], bytes_per_s: float) -> str:
    """Lay the medians over the turns out as Markdown."""
    lines = ["| | a step, ms | least - most | exposed | recorded | the cable needs, ms a step |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    bare = [step.seconds for step in found[NOTHING]]
    for name, turns in found.items():
        ms = [1e3 * step.seconds for step in turns]
        exposed = median(1 - b / step.seconds for step, b in zip(turns, bare, strict=True))
        recorded = median(step.recorded for step in turns)
        cable = 1e3 * median(step.sent_bytes for step in turns) / bytes_per_s
        lines.append(
            f"| {name} | {median(ms):.0f} | {min(ms):.0f} - {max(ms):.0f} "
            f"| {exposed:.1%} | {recorded:.1%} | {cable:.1f} |"
        )
    return "\n".join(lines)


MEANING = (
    "Exposed: the part of a step that is not there without exchange, median of the turns. It "
    "includes what moving the bytes takes from the processor: on one machine the ranks share its "
    "cores with each other, with TCP and with the cables. Recorded: waiting and transferring of "
    "the mean worker in the run's own ledger, when its loop stood still. The cable needs: bytes on "
    "the wire by its rate."
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="1gbit", help="a name or a file of netlab")
    parser.add_argument("--launcher", default="mpirun", help="of netlab: mpirun, torchrun")
    parser.add_argument("--every", type=int, default=32, help="H of the local methods")
    parser.add_argument("--batch", type=int, default=64, help="samples a worker takes in a step")
    parser.add_argument("--rounds", type=int, default=5, help="of the local methods, 3 at least")
    parser.add_argument("--parallel-steps", type=int, default=32, help="of parallel SGD")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--name", default="exposed", help="of the report")
    return parser


if __name__ == "__main__":
    main()
