"""`--init-from RUN[:STEP]`: begin with the parameters that another run has come to.

The mean model is that of its end (model.safetensors) or of a snapshot. Its workers, each with its
own parameters, are in snapshots that keep them and in checkpoints (`init_workers`). The run is a
new one: it begins at step 0 of its own schedules, with random numbers of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.commands.configuration.config import Config
from hpc_localsgd.commands.init_workers import EACH, put_workers
from hpc_localsgd.engine.agreement import agree, check_equal_start
from hpc_localsgd.engine.position import Run
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.final_model import FILE_NAME, read_tensors, step_of
from hpc_localsgd.schedules.base import round_length
from hpc_localsgd.trajectory import Trajectory

if TYPE_CHECKING:
    from hpc_localsgd.types import Vector

# Options of tasks that make another model, maybe with tensors of the same names and shapes: tanh
# in place of ReLU, other heads or groups.
OF_THE_MODEL = ("model", "norm", "groups", "heads", "cell", "bidirectional", "layers")


def begun_from(config: Config, run: Run) -> str:
    """Put the parameters that `--init-from` names into a run; say whose they are.

    All ranks together. "" without the option.

    Args:
        config: The options.
        run: Its objects, freshly made.

    Raises:
        ConfigurationError: There are none, or they are of another task, model or number of
            workers; on all ranks alike.
    """
    if config.init_from is None:
        if config.init_with != "mean":
            raise ConfigurationError(
                f"--init-with {config.init_with} says what of another run: add --init-from RUN"
            )
        return ""
    world, task = run.world, run.task
    if config.init_with == "mean":
        told = agree(world, lambda: _put_mean(config, run) if world.rank == 0 else "")
        world.broadcast(task.x)
        return told
    told = agree(world, lambda: _put_workers(config, run))
    if _begin_apart(run):
        H = round_length(run.schedule, 0, run.rate(0), run.steps)
        check_equal_start(run.algorithm, H, "type --init-with mean")
    return told


def _begin_apart(run: Run) -> bool:
    """Return whether any two workers have different parameters. A collective, not billed."""
    x = run.task.x
    mine = (x != run.world.broadcast(x.clone())).any(1)
    return bool(run.world.gather(mine.cpu().numpy()).any())


def _put_mean(config: Config, run: Run) -> str:
    record, step = _named(config)
    final = record.path.with_name(FILE_NAME)
    if final.exists():  # its tensors have names and shapes, which a snapshot has not
        x = _of_tensors(final, run)
        last = step_of(final)
    if step is not None:
        x, last = torch.from_numpy(record.snapshot(step).mean), step
    elif not final.exists():
        raise ConfigurationError(f"{final} is not there; {_snapshots(record)}")
    if len(x) != run.task.dim:
        raise ConfigurationError(_other_model(record, f"has {len(x):,} parameters", run))
    run.task.x[:] = x.to(run.task.x)
    return _told(record, last, "the mean model", run)


def _put_workers(config: Config, run: Run) -> str:
    record, step = _named(config)
    found = put_workers(record, step, config.init_with, run)
    return _told(record, found, EACH[config.init_with], run)


def _named(config: Config) -> tuple[Trajectory, int | None]:
    """Open the run that the options name; return it with the step, if they name one.

    Raises:
        ConfigurationError: It is `--out` itself, or of another task.
        TrajectoryError: There is no such run.
    """
    given = str(config.init_from)
    name, _, tail = given.rpartition(":")
    several = bool(name) and tail.isdecimal() and not Path(given).exists()
    record = Trajectory(name if several else given)
    if record.path.resolve().parent == Path(config.out).resolve():
        raise ConfigurationError(
            f"--init-from {given} is --out itself: continue it with --resume, or give another --out"
        )
    task = record.config.get("task") or {}
    path = str(task.get("class_path", "") if isinstance(task, dict) else task)
    theirs, ours = path.rpartition(".")[2], type(config.task).__name__
    if theirs != ours:
        raise ConfigurationError(
            f"--init-from {given} is a run of the task {theirs}, and this one is of {ours}"
        )
    _check_options(given, task.get("init_args") if isinstance(task, dict) else None, config.task)
    return record, int(tail) if several else None


def _check_options(given: str, options: object, task: object) -> None:
    """Check that the model is the same; of what the record does not say, no more is known.

    Raises:
        ConfigurationError: An option makes it another one.
    """
    there = options if isinstance(options, dict) else {}
    for name in OF_THE_MODEL:
        ours = getattr(task, name, None)
        if ours is not None and there.get(name, ours) != ours:
            raise ConfigurationError(
                f"--init-from {given} is of another model: --task.{name} {there[name]}, and this "
                f"run has {ours}: give it the same"
            )


def _of_tensors(final: Path, run: Run) -> Vector:
    try:
        return run.task.vector_of(read_tensors(final))
    except ConfigurationError as error:
        raise ConfigurationError(f"--init-from: {final} is of another model: {error}") from error


def _other_model(record: Trajectory, what: str, run: Run) -> str:
    return (
        f"--init-from: the model of {record.path.parent} {what}, and that of this run "
        f"{run.task.dim:,}: give it the same --task.model and sizes"
    )


def _snapshots(record: Trajectory) -> str:
    kept = [int(step) for step in np.unique(record.snapshot_steps)]
    if not kept:
        return "nor has the run snapshots"
    some = ", ".join(map(str, kept[:8])) + (f", ... {kept[-1]}" if len(kept) > 8 else "")
    return f"snapshots are at {some}: type --init-from {record.path.parent}:{kept[-1]}"


def _told(record: Trajectory, step: int, what: str, run: Run) -> str:
    """Say where parameters are from.

    Raises:
        ConfigurationError: They are not finite: that run has diverged.
    """
    if not bool(torch.isfinite(run.task.x).all()):
        raise ConfigurationError(
            f"--init-from: the parameters of {record.path.parent} at step {step} are not finite"
        )
    attrs = record.attrs
    of = f"seed {attrs.get('seed')}, options {str(attrs.get('digest', ''))[:12]}"
    return f"{record.path.parent} at step {step}, {what} ({of})"
