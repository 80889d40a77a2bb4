"""Step time with periodic checkpoints and without, interleaved in one process.

    python benchmarks/checkpoint_overhead.py
    mpirun -np 2 python benchmarks/checkpoint_overhead.py --out /scratch/somewhere

Blocks of steps with a checkpoint manager and without take turns, so that both see the same machine.
A block with one copies its place once a second and writes a checkpoint every `--every` seconds.
Expected: at most 1.02 times the step time. About 2 minutes on two quiet cores. Rank 0 writes the
report.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from reporting import write_report
from side_by_side import figures, table

from hpc_localsgd.commands.assembly.worlds import make_world
from hpc_localsgd.commands.configuration.config import parse
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.loop import Run, train
from hpc_localsgd.run.checkpoint import CheckpointManager, Checkpoints
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.worlds.base import World


def made(options: list[str], world: World) -> Run:
    """Make the run of the options."""
    from hpc_localsgd.commands.assembly.objects import make_run

    return make_run(parse(options), world)[0]


def block_s(run: Run, keeper: CheckpointManager | None) -> float:
    """Return the seconds a step of one run from its beginning to its end."""
    run.task.x[:] = run.task.init(0)
    run.optimizer.torch.state.clear()
    p, record = run.beginning(), Recorder(run)
    record.start(p)
    if keeper is not None:
        keeper.begin(p, record)
    began = time.perf_counter()
    if keeper is None:
        train(run, p, record)
    else:
        train(run, p, record, keeper.between_steps)
    if keeper is not None:
        keeper.finish()
    return (time.perf_counter() - began) / run.steps


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--round", type=int, default=16)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between checkpoints")
    parser.add_argument("--out", help="a folder all ranks see; default: a temporary one")
    given = parser.parse_args()
    share_cores(os.environ)
    options = [f"--steps={given.steps}", f"--task.hidden={given.hidden}", "--schedule=every"]
    options += [f"--schedule.steps={given.round}", "--evaluate-every=0", "--spread-every=0"]
    world = make_world(parse(options).config, detect(os.environ))
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(given.out or temporary)
        off, on = measured(made(options, world), out, given.pairs, given.every)
    if world.rank == 0:
        report({"without": off, "with checkpoints": on}, given, world)
    world.close()
    return 0


def measured(run: Run, out: Path, pairs: int, every_s: float) -> tuple[list[float], list[float]]:
    """Return the seconds a step without and with a keeper, the first pair dropped."""
    off, on = [], []
    for _ in range(pairs + 1):
        off.append(block_s(run, None))
        keeper = CheckpointManager(run, Checkpoints(out, run.world), seconds=every_s)
        on.append(block_s(run, keeper))
    return off[1:], on[1:]


def report(times: dict[str, list[float]], given: argparse.Namespace, world: World) -> None:
    """Compare the step with checkpoints with the one without, neighbours in time."""
    found = figures(times, "without")
    text = (
        f"# Checkpoints while training\n\nOne every {given.every:g} s; a perceptron with "
        f"{given.hidden} hidden units, rounds of {given.round} steps, {world}, "
        f"{given.pairs} pairs of runs of {given.steps} steps.\n\n{table(found, 'without')}"
    )
    data = {name: asdict(figure) for name, figure in found.items()}
    write_report("checkpoint_overhead", text, {"options": vars(given), **data})


if __name__ == "__main__":
    sys.exit(main())
