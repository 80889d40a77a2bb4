"""The run whose snapshots are measured: opened by rank 0, its task rebuilt by every rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hpc_localsgd.commands.assembly.objects import NO_SUCH_SIZES, cannot_be_made
from hpc_localsgd.commands.configuration.config import recorded
from hpc_localsgd.commands.replaceable import check_hdf5_name, check_replaceable, is_sharpness
from hpc_localsgd.commands.sharpness.options import SharpnessOptions
from hpc_localsgd.curvature import build_for_curvature
from hpc_localsgd.errors import ConfigurationError, DataError
from hpc_localsgd.run.final_model import FILE_NAME as FINAL
from hpc_localsgd.run.final_model import read_tensors, step_of
from hpc_localsgd.tasks.base import Task
from hpc_localsgd.trajectory import Header, Snapshot, Trajectory, TrajectoryError
from hpc_localsgd.trajectory.segments import trajectory_file

FILE_NAME = "sharpness.h5"


@dataclass(frozen=True)
class MeasuredRun:
    """A run with snapshots, or with the model of its end alone.

    Attributes:
        run: Its record.
        steps: The chosen snapshots, ascending.
        workers: Whether its snapshots hold every worker's parameters.
        out: Where results go.
        model: File of the model of its end, where there are no snapshots.
    """

    run: Trajectory
    steps: tuple[int, ...]
    workers: bool
    out: Path
    model: Path | None = None

    def snapshot(self, step: int, task: Task) -> Snapshot:
        """Read the parameters at one of its steps.

        Args:
            step: One of `steps`.
            task: Of the run, which knows the names of the model's tensors.

        Raises:
            TrajectoryError: A snapshot cannot be read.
            ConfigurationError: The file of the model is damaged, or of another model.
        """
        if self.model is None:
            return self.run.snapshot(step, workers=self.workers)
        named = read_tensors(self.model)
        return Snapshot(step, task.vector_of(named).to(torch.float32).numpy())

    def header(self, options: SharpnessOptions) -> Header:
        """Return the header of the results file: facts of the run, and how numbers are made."""
        import yaml

        attrs = self.run.attrs
        how = {"sharpness": {**options.settings(), "run_created": str(attrs.get("created", ""))}}
        return Header(
            config=self.run.config_text.rstrip() + "\n" + yaml.safe_dump(how, sort_keys=False),
            task=str(attrs["task"]),
            algorithm=str(attrs["algorithm"]),
            schedule=str(attrs["schedule"]),
            world=str(attrs["world"]),
            clock=str(attrs["clock"]),
            K=self.run.K,
            P=self.run.P,
            seed=int(attrs["seed"]),
        )


def open_run(options: SharpnessOptions) -> MeasuredRun:
    """Open the run of the options; raise ConfigurationError if it lacks what is asked for.

    Raises:
        ConfigurationError: No run, another schema, no snapshots, no workers, no such step.
    """
    try:
        run = Trajectory(options.run)
        kept = np.unique(run.snapshot_steps).tolist()
        workers = bool(run.config.get("snapshot_workers", False))
    except TrajectoryError as error:
        raise ConfigurationError(str(error)) from error
    final = run.path.with_name(FINAL)
    model = final if not kept and final.exists() else None
    if model is not None:
        kept, workers = [step_of(model)], False
    if not kept:
        raise ConfigurationError(
            f"{run.path} has no snapshots, and there is no {FINAL} beside it, so there are no "
            "parameters to measure at: train again with "
            '--snapshot-every "10%" (and --snapshot-workers for every worker\'s own)'
        )
    if options.each_worker and not workers:
        raise ConfigurationError(
            f"{run.path}: its snapshots hold the mean model only: leave --each-worker out, or "
            "train again with --snapshot-workers"
        )
    out = Path(options.out) if options.out else run.path.with_name(FILE_NAME)
    if trajectory_file(out).resolve() in {path.resolve() for path in run.paths}:
        raise ConfigurationError(f"--out {out} is the run itself, which is never written to")
    if out.is_dir():  # perhaps of another run, whose record would be replaced
        raise ConfigurationError(f"--out {out} is a folder: type {out / FILE_NAME}")
    check_hdf5_name(out)
    if options.overwrite:
        check_replaceable(out, is_sharpness, "a file of sharpness")
    return MeasuredRun(run, chosen(options.steps, kept), workers, out, model)


def chosen(steps: str, kept: list[int]) -> tuple[int, ...]:
    """Return the steps that the options select.

    Raises:
        ConfigurationError: Not a list of steps of which there are snapshots.
    """
    if steps == "all":
        return tuple(kept)
    if steps == "last":
        return (kept[-1],)
    words = [word for word in str(steps).strip("[]").replace(",", " ").split()]
    if not words or not all(word.isdecimal() for word in words):
        raise ConfigurationError(f"--steps {steps}: give all, last, or steps as in 0,500,1000")
    asked = {int(word) for word in words}
    if missing := asked - set(kept):
        some = ", ".join(map(str, kept[:12])) + (f", ... {kept[-1]}" if len(kept) > 12 else "")
        raise ConfigurationError(f"no snapshot at step {min(missing)}; there are: {some}")
    return tuple(sorted(asked))


class TaskOptions(Protocol):
    """Options with which a recorded task is made again."""

    @property
    def seed(self) -> int:
        """Of the fixed subset of its samples."""

    @property
    def dtype(self) -> str:
        """Of the computation."""

    @property
    def trust(self) -> tuple[str, ...]:
        """Modules that the configuration may name."""


def rebuilt(
    text: str, options: TaskOptions, device: torch.device, run: Trajectory | None = None
) -> Task:
    """Make the task of a recorded configuration, on this rank's device.

    Args:
        text: The configuration.
        options: How the task is made.
        device: Of this rank.
        run: The record, whose model it must be; None on ranks that have not opened it.

    Raises:
        ConfigurationError: The configuration is not understood, the data is missing, there is no
            memory for a task of the recorded sizes, or the model is another by now.
    """
    config = recorded(text, options.trust).config
    try:
        task = build_for_curvature(
            config.task,
            batch=config.batch_per_worker,
            seed=options.seed,
            dtype=getattr(torch, options.dtype),
            device=device,
        )
    except (ConfigurationError, DataError):
        raise  # says in words already what is wrong
    except NO_SUCH_SIZES as error:
        raise ConfigurationError(cannot_be_made(config.task, 1, error)) from error
    if run is not None and run.P != task.dim:
        raise ConfigurationError(
            f"{run.path} holds {run.P} parameters, but the task it recorded now has {task.dim}: it "
            "was trained with another version of the model"
        )
    return task
