"""Weak and strong scaling of real ranks: parallel SGD and Local SGD, 1, 2, 4, ... ranks.

    python -m benchmarks.scaling                       # on this machine, under mpirun
    python -m benchmarks.scaling --hosts 1gbit         # hosts joined by emulated 1 Gb/s, as root
    python -m benchmarks.scaling --launch "srun -n {n}" --ranks 8 16 32 64 -- --task=imagenet ...

Weak: each worker takes --batch samples a step, however many there are. Strong: all together take
--batch times the largest number. What counts are the samples a second of whole rounds, those of the
first fifth of the run left out; efficiency is against the smallest number of ranks. Options after
`--` are train's, and replace the model (a ResNet-20 on images out of random numbers). Jobs are done
in turns, --turns times. Writes benchmarks/reports/scaling.md with its figure.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.netlab import Lab, network
from benchmarks.netlab.launchers import environ
from benchmarks.reporting import REPORTS, ROOT, write_report
from benchmarks.scaling_figure import draw
from hpc_localsgd.analysis.costs import round_s
from hpc_localsgd.analysis.figure_files import house_style, save
from hpc_localsgd.trajectory import Trajectory

KINDS = ("weak", "strong")
MPIRUN = "mpirun -np {n} --bind-to none --oversubscribe"
MODEL = "--task=synthetic_images --task.model=resnet20 --task.samples=4096 --task.augment=false"
ALWAYS = "--figures=false --evaluate-every=0 --checkpoint-every=0 --save-model=false --overwrite"
WARM_UP = 0.2  # part of the steps
PATIENCE_S = 900.0


@dataclass(frozen=True)
class Rate:
    """What a job did.

    Attributes:
        kind: weak or strong.
        every: H; 1 is parallel SGD.
        ranks: K.
        samples_per_s: Of all workers, the median of the turns.
        exchanging: Part of the mean worker's seconds in which it waited or transferred.
    """

    kind: str
    every: int
    ranks: int
    samples_per_s: float
    exchanging: float


def main() -> None:
    """Run all jobs and write the report."""
    options, words = _parser().parse_known_args()
    words = [word for word in words if word != "--"] or MODEL.split()
    found: dict[tuple[str, int, int], list[Rate]] = {}
    for _ in range(options.turns):
        for kind in KINDS:
            for every in options.every:
                for n in options.ranks:
                    rate = measured(options, kind, every, n, words)
                    found.setdefault((kind, every, n), []).append(rate)
                    print(
                        f"{kind}, H = {every}, {n} ranks: {rate.samples_per_s:.0f} /s", flush=True
                    )
    rates = [_middle(turns) for turns in found.values()]
    where = f"hosts joined by {options.hosts}" if options.hosts else f"`{options.launch}`"
    cores = len(os.sched_getaffinity(0))
    facts = [f"model: `{shlex.join(words)}`", f"ranks by {where}, {cores} cores on this machine"]
    text = "\n\n".join([f"# Scaling\n\n{', '.join(facts)}.", *(table(rates, k) for k in KINDS)])
    with house_style("scaling"):
        save(draw(rates, [f"ranks by {where}"]), REPORTS / f"{options.name}.png")
    text += f"\n\n![Weak and strong scaling]({options.name}.png)"
    write_report(options.name, text, {"rates": [asdict(r) for r in rates]})


def measured(
    options: argparse.Namespace, kind: str, every: int, n: int, words: Sequence[str]
) -> Rate:
    """Run one job and read its record."""
    batch = options.batch if kind == "weak" else options.batch * max(options.ranks) // n
    with TemporaryDirectory() as folder:
        run = [
            *("-m", "hpc_localsgd.train", *words, *ALWAYS.split(), f"--steps={options.steps}"),
            *(f"--batch-per-worker={batch}", "--schedule=every", f"--schedule.steps={every}"),
            f"--out={folder}",
        ]
        launch(options, n, run)
        samples_per_s, exchanging = rate_of(Trajectory(folder), batch)
    return Rate(kind, every, n, samples_per_s, exchanging)


def launch(options: argparse.Namespace, n: int, run: Sequence[str]) -> None:
    """Start the ranks of a job, and wait for its end.

    Raises:
        RuntimeError: It failed.
    """
    if options.hosts:
        with Lab(replace(network(options.hosts), hosts=n, ranks_per_host=1)) as lab:
            lab.run(run, timeout_s=PATIENCE_S)
        return
    command = [*shlex.split(options.launch.format(n=n)), sys.executable, *run]
    env = environ(os.environ, str(ROOT), str(Path(sys.executable).parent))
    if not options.launch.startswith("mpirun"):  # the transports of a cluster are its own
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def rate_of(run: Trajectory, batch: int) -> tuple[float, float]:
    """Return samples a second of all workers, and the part of the time that is no computing.

    Args:
        run: Complete, of `batch` samples a worker and step.
        batch: That number.
    """
    rounds, last = run.rounds, int(run.rounds.step_end[-1])
    late = rounds.step_begin >= WARM_UP * last
    steps = int((rounds.step_end - rounds.step_begin)[late].sum())
    seconds = float(round_s(run)[late].sum())
    talked = (np.nan_to_num(part[late]) for part in (rounds.wait_s, rounds.transfer_s))
    exchanging_s = sum(part.mean(axis=1).sum() for part in talked)
    return run.K * batch * steps / seconds, float(exchanging_s) / seconds


def _middle(turns: Sequence[Rate]) -> Rate:
    values = ((r.samples_per_s, r.exchanging) for r in turns)
    samples_per_s, exchanging = (median(part) for part in zip(*values, strict=True))
    return replace(turns[0], samples_per_s=samples_per_s, exchanging=exchanging)


def efficiency(rates: Sequence[Rate], rate: Rate) -> float:
    """Return samples a second and rank, against those of the fewest ranks of the same series."""
    same = (r for r in rates if (r.kind, r.every) == (rate.kind, rate.every))
    first = min(same, key=lambda r: r.ranks)
    return rate.samples_per_s / rate.ranks / (first.samples_per_s / first.ranks)


def table(rates: Sequence[Rate], kind: str) -> str:
    """Return a table of one kind, a row a number of ranks and method."""
    lines = ["| ranks | H | samples/s | efficiency | waiting and transferring |"]
    lines.append("|--:|--:|--:|--:|--:|")
    for r in sorted((r for r in rates if r.kind == kind), key=lambda r: (r.every, r.ranks)):
        lines.append(
            f"| {r.ranks} | {r.every} | {r.samples_per_s:,.0f} | {efficiency(rates, r):.2f} "
            f"| {100 * r.exchanging:.0f} % |"
        )
    return f"## {kind.capitalize()} scaling\n\n" + "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--every", type=int, nargs="+", default=[1, 8], help="H, each a method")
    parser.add_argument("--batch", type=int, default=16, help="samples a worker takes in a step")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--launch", default=MPIRUN, help="{n} stands for the number of ranks")
    parser.add_argument("--hosts", help="a network of netlab, one rank a host")
    parser.add_argument("--name", default="scaling", help="of the report and its figure")
    return parser


if __name__ == "__main__":
    main()
