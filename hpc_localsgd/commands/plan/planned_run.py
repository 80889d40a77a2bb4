"""What is planned: the objects of a run, its durations in steps, without its storage."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from hpc_localsgd.commands.assembly.length import units_of
from hpc_localsgd.commands.assembly.objects import built, check_rounds, execution
from hpc_localsgd.commands.configuration.config import Config, MakeOptimizer, Resolved
from hpc_localsgd.commands.plan.activations import activations
from hpc_localsgd.commands.plan.figure_file import check_figure
from hpc_localsgd.compressors.base import MatrixCompression
from hpc_localsgd.engine.launch import Launch
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.schedules.local_steps import Schedule
from hpc_localsgd.schedules.rates import Rate
from hpc_localsgd.tasks.base import Task, TaskContext, TaskSpec
from hpc_localsgd.types import ModelSize
from hpc_localsgd.worlds.placement import Placement

TENSORS = 16  # a model of which only P is known counts as so many equal tensors


@dataclass
class PlanOptions:
    """Options of `plan` beyond those of the run.

    Args:
        step_time: Seconds of one local step, from a short run; gives the time of the whole run.
        time_limit: Of the job, as for sbatch: minutes, 2:30:00 or 1-12:00:00. Default: what Slurm
            says, inside a job.
        parameters: P, in place of the task's model.
        samples: Size of the training set, in place of the task's. With both, no task is made.
        activations: Also measure the activations of a step, on one worker's model on this machine's
            CPU.
        ranks: Of the job, on which the workers are placed. Default: those that a launcher started.
        figure: Also draw the rate, the rounds, bytes and seconds into this file: .png, .pdf, .svg,
            or .csv for the numbers.
    """

    step_time: float | None = None
    time_limit: str | None = None
    parameters: float | None = None
    samples: float | None = None
    activations: bool = False
    ranks: int | None = None
    figure: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float | int) and value is not False and not value > 0:
                option = "--" + name.replace("_", "-")
                raise ConfigurationError(f"{option} must be positive, got {value:g}")
            if name in ("parameters", "samples") and value is not None and not 1 <= value < 1e15:
                option = "--" + name.replace("_", "-")
                raise ConfigurationError(f"{option} {value:g}: give 1 or more, and less than 1e15")
        if self.activations and self.parameters is not None:
            raise ConfigurationError(
                "--activations are measured on the task's model: leave --parameters out"
            )
        if self.figure is not None:
            check_figure(self.figure)


@dataclass(frozen=True)
class PlannedRun:
    """A run that is planned but not started.

    Attributes:
        config: Its options.
        optimizer: Makes its optimiser.
        workers: K.
        placement: How workers are placed on ranks.
        model: Lengths of the model's tensors.
        buffers: Q, floating-point buffers of BatchNorm.
        samples: Size of the training set.
        units: Of its durations.
        schedule: In steps.
        rate: In steps.
        activations: Bytes that a worker's step keeps for its backward pass; NaN if not measured.
        stand_in: Whether the data is not here, and model and size are those that are published.
        notes: What the user may have overlooked.
    """

    config: Config
    optimizer: MakeOptimizer
    workers: int
    placement: Placement
    model: ModelSize
    buffers: int
    samples: int
    units: Units
    schedule: Schedule
    rate: Rate
    activations: float = math.nan
    stand_in: bool = False
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Length of the run."""
        return self.units.total or 0


def planned_run(resolved: Resolved, options: PlanOptions, launch: Launch) -> PlannedRun:
    """Make the run of these options, with one worker's model at most.

    Raises:
        ConfigurationError: Contradictions, or data that is missing.
    """
    config, n = resolved.config, options.ranks or launch.started or 1
    K = n if config.workers is None else config.workers
    placement = Placement(K, n)
    context = TaskContext(
        workers=K,
        batch=config.batch_per_worker,
        seed=config.seed,
        dtype=getattr(torch, config.dtype),
        replacement=config.sampling == "replacement",
        remainder=config.remainder,
        execution=execution(config),
    )
    weighed = _weighed(config, options, context)
    units = units_of(config, context.partition(weighed.samples))
    rate = config.rate.in_steps(units)
    schedule = config.schedule.in_steps(units, int(rate.warmup))
    check_rounds(config.algorithm, schedule, rate, units.total or 0)
    return PlannedRun(
        config=config,
        optimizer=resolved.optimizer,
        workers=K,
        placement=placement,
        model=weighed.model,
        buffers=weighed.buffers,
        samples=weighed.samples,
        units=units,
        schedule=schedule,
        rate=rate,
        activations=weighed.activations,
        stand_in=weighed.stand_in,
        notes=resolved.notes,
    )


@dataclass(frozen=True)
class _Weighed:
    """Sizes learnt from the task, see `PlannedRun`."""

    model: ModelSize
    buffers: int
    samples: int
    activations: float = math.nan
    stand_in: bool = False


def _weighed(config: Config, options: PlanOptions, context: TaskContext) -> _Weighed:
    """Return the model's sizes, its buffers, the number of training samples, and activations."""
    given = options.parameters, options.samples
    itemsize = context.dtype.itemsize
    by_shape = isinstance(getattr(config.algorithm, "compressor", None), MatrixCompression)
    if given[0] is not None and given[1] is not None and not by_shape:
        return _Weighed(_even(round(given[0]), itemsize), 0, round(given[1]))
    task, stand_in = _built(config.task, context)
    model = replace(task.model_size, itemsize=itemsize)
    if given[0] is not None and round(given[0]) != model.P:
        model = _even(round(given[0]), itemsize)
    samples = task.splits["train"] if given[1] is None else round(given[1])
    kept = math.nan
    if options.activations:
        if config.accumulate > 1:  # the few samples of a measurement must not be cut once more
            whole = replace(context.execution, accumulate=1)
            task, _ = _built(config.task, replace(context, execution=whole))
        task.x[:] = task.init(config.seed)
        kept = activations(task, config.batch_per_worker // config.accumulate)
    return _Weighed(model, int(task.buffers.shape[1]), samples, kept, stand_in)


def _built(spec: TaskSpec, context: TaskContext) -> tuple[Task, bool]:
    """Make the task; without its data, one of the published size in its place (and True)."""
    try:
        return built(spec, context), False
    except ConfigurationError as error:
        if spec.published() is None:
            raise ConfigurationError(
                f"{error} (a plan does without the task if given --parameters P and --samples N)"
            ) from error
    return spec.smoke().build(context), True  # few of its images are drawn: it is only weighed


def _even(P: int, itemsize: int) -> ModelSize:
    """Return the sizes of P parameters in tensors of nearly equal length."""
    parts = min(TENSORS, P)
    return ModelSize(tuple((i + 1) * P // parts - i * P // parts for i in range(parts)), itemsize)
