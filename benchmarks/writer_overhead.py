"""Step time with the trajectory written and without, interleaved in one process.

    python benchmarks/writer_overhead.py
    mpirun -np 2 python benchmarks/writer_overhead.py --out /scratch/somewhere

Blocks of steps with a writer and without take turns, so that both see the same machine. Both
measure what a run measures by default (loss and accuracy of the mean model, spread), at the default
cadence; one also writes it, with a row a round, and flushes every ten seconds and at its end.
Wanted: at most 1.01 times the step time. The model is the smallest there is, whose step is the
shortest. About three minutes on two quiet cores. Rank 0 writes the report.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from reporting import write_report
from side_by_side import figures, table

from hpc_localsgd.commands.assembly.cadences import probes
from hpc_localsgd.commands.assembly.job import open_record
from hpc_localsgd.commands.assembly.objects import make_run
from hpc_localsgd.commands.assembly.worlds import make_world
from hpc_localsgd.commands.configuration.config import Resolved, parse
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.loop import train
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.worlds.base import World


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--round", type=int, default=8)
    parser.add_argument("--out", help="a folder on the disk to be timed; default: a temporary one")
    given = parser.parse_args()
    share_cores(os.environ)
    with tempfile.TemporaryDirectory() as temporary:
        options = [f"--steps={given.steps}", f"--workers={given.workers}", "--schedule=every"]
        options += [f"--schedule.steps={given.round}", f"--out={given.out or temporary}"]
        resolved = parse(options)
        world = make_world(resolved.config, detect(os.environ))
        off, on = measured(resolved, world, given.pairs)
        written = Path(given.out or temporary, "trajectory.h5")
        if world.rank == 0:
            report({"without": off, "written": on}, given, world, written.stat().st_size)
    world.close()
    return 0


def measured(resolved: Resolved, world: World, pairs: int) -> tuple[list[float], list[float]]:
    """Return the seconds a step without and with a writer, the first pair dropped."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(pairs + 1):
        for write in (False, True) if pair % 2 else (True, False):  # each as often the first
            times[write].append(block_s(resolved, world, write))
    return times[False][1:], times[True][1:]


def block_s(resolved: Resolved, world: World, write: bool) -> float:
    """Return the seconds a step of one run, from its beginning to the end of its record."""
    run, units = make_run(resolved, world)
    steps, spread = probes(resolved.config, units)
    began = time.perf_counter()
    how = SimpleNamespace(mode="overwrite")
    writes = write and world.rank == 0
    writer = open_record(resolved, run, units, 0, how) if writes else None  # type: ignore[arg-type]
    p, record = run.beginning(), Recorder(run, steps, spread, writer)
    record.start(p)
    train(run, p, record)
    record.close("complete")
    return (time.perf_counter() - began) / run.steps


def report(
    times: dict[str, list[float]], given: argparse.Namespace, world: World, written: int
) -> None:
    """Compare the step that is written with the one that is not, neighbours in time."""
    found = figures(times, "without")
    rounds = given.steps // given.round
    text = (
        f"# Writing the trajectory while training\n\nThe default task, {world}, H = {given.round}, "
        f"default cadences; {given.pairs} pairs of runs of {given.steps:,} steps, each of "
        f"{rounds:,} rounds and {written / 1e6:.2f} MB.\n\n{table(found, 'without')}"
    )
    data = {name: asdict(figure) for name, figure in found.items()}
    write_report("writer_overhead", text, {"options": vars(given), "bytes": written, **data})


if __name__ == "__main__":
    sys.exit(main())
