"""`python -m hpc_localsgd sharpness RUN`: joins the world, measures, says what was found."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hpc_localsgd.commands.collective_command import measure
from hpc_localsgd.commands.output import columns_of_output, put
from hpc_localsgd.commands.sharpness.options import PROG, SharpnessOptions, parse
from hpc_localsgd.cost.formatting import human_seconds
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.commands.sharpness.measure import Measurer
    from hpc_localsgd.commands.sharpness.measured_run import MeasuredRun
    from hpc_localsgd.commands.sharpness.shared_loss import SharedLoss
    from hpc_localsgd.commands.sharpness.sharpness_file import SharpnessFile
    from hpc_localsgd.worlds.base import World


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    return measure(argv, PROG, parse, sharpness)


def sharpness(options: SharpnessOptions, world: World) -> None:
    """Measure a run: rank 0 opens and drives, the others serve.

    Raises:
        ConfigurationError: On all ranks alike.
    """
    from hpc_localsgd.commands.sharpness.measured_run import open_run, rebuilt
    from hpc_localsgd.commands.sharpness.shared_loss import SharedLoss, text_of_rank_0
    from hpc_localsgd.engine.agreement import agree

    first = world.rank == 0
    subject: Any = agree(world, lambda: open_run(options) if first else None)
    text = text_of_rank_0(world, subject.run.config_text if first else "")

    def build() -> SharedLoss:
        task = rebuilt(text, options, world.device, subject.run if first else None)
        if options.needs_outputs:  # said here, where all ranks say it together
            task.outputs(task.x[0], task.batch([0], 0)[0][0])
        return SharedLoss(world, task, options.samples, options.chunk)

    team = agree(world, build)
    if not first:
        return team.serve()
    try:
        _drive(subject, team, options)
    except ConfigurationError:
        team.finish(failed=True)
        raise
    team.finish()


def _drive(subject: MeasuredRun, team: SharedLoss, options: SharpnessOptions) -> None:
    """Measure the snapshots that are not in the file yet, and print the table."""
    from hpc_localsgd.commands.sharpness.measure import Measurer
    from hpc_localsgd.commands.sharpness.page import page
    from hpc_localsgd.commands.sharpness.sharpness_file import SharpnessFile
    from hpc_localsgd.trajectory import Trajectory

    notes = [*_standing(subject)]
    header, most = subject.header(options), subject.run.most_workers
    with SharpnessFile(subject.out, header, options.overwrite, most) as store:
        measurer = Measurer(team, options, team.like, _precision(subject))
        before = len(store.done & set(subject.steps))
        missing = [step for step in subject.steps if step not in store.done]
        for i, step in enumerate(missing):
            notes += _one(subject, store, measurer, step, f"{i + 1} of {len(missing)}")
        there = [step for step in subject.steps if step in store.done]
    if not there:
        raise ConfigurationError("; ".join(["nothing could be measured", *notes]))
    if before:
        notes.append(f"{before} of these snapshots had been measured before.")
    notes.append(f"On {team.samples:,} training samples, {options.dtype}; all in {subject.out}")
    terminal = columns_of_output(detect(os.environ).launched)
    put(page(Trajectory(subject.out, segments=False), there, notes, terminal))


def _one(
    subject: MeasuredRun, store: SharpnessFile, measurer: Measurer, step: int, place: str
) -> Sequence[str]:
    """Measure one snapshot; return notes on it."""
    import numpy as np

    from hpc_localsgd.trajectory import TrajectoryError

    begin, team = time.perf_counter(), measurer.team
    taken = team.products_taken
    try:
        snapshot = subject.snapshot(step, team.task)
    except TrajectoryError as error:
        return [f"Step {step} is left out: {error}"]
    everything = [snapshot.mean] + ([] if snapshot.workers is None else [snapshot.workers])
    bad = sum(int((~np.isfinite(x)).sum()) for x in everything)
    if bad:
        return [
            f"Step {step} is left out: {bad} of its {sum(x.size for x in everything)} parameters "
            "are not finite (the run diverged, or float16 snapshots overflowed)."
        ]
    store.add(step, measurer.measure(snapshot))
    seconds, products = time.perf_counter() - begin, team.products_taken - taken
    put(f"step {step} ({place}): {products} Hessian-vector products in {human_seconds(seconds)}")
    return []


def _precision(subject: MeasuredRun) -> float:
    """Return the precision of the snapshots: workers that differ by less are equal."""
    import torch

    return torch.finfo(getattr(torch, subject.run.config.get("snapshot_dtype", "float32"))).eps


def _standing(subject: MeasuredRun) -> Sequence[str]:
    """Return notes on a run that has not ended as it should."""
    if subject.run.status == "running":
        return ["The run has not ended: it is in progress or was killed; these are its snapshots."]
    if subject.run.status == "diverged":
        return ["The run diverged."]
    return []
