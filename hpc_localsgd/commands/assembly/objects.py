"""The objects of a run, from its options: task, algorithm, schedule, optimiser."""

from __future__ import annotations

from dataclasses import fields
from itertools import islice

import torch

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.commands.assembly.length import units_of
from hpc_localsgd.commands.configuration.config import Config, Resolved
from hpc_localsgd.commands.smoke import shortened
from hpc_localsgd.engine.agreement import agree, check_same
from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.engine.optimizer import LocalOptimizer
from hpc_localsgd.engine.quarantine import QuarantinedAlgorithm
from hpc_localsgd.errors import ConfigurationError, DataError
from hpc_localsgd.loop import Run
from hpc_localsgd.schedules.base import Round, Schedule, rounds
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.schedules.rates import Rate
from hpc_localsgd.tasks.base import Task, TaskContext, TaskSpec
from hpc_localsgd.tasks.draws import seed_of
from hpc_localsgd.tasks.execution import Execution
from hpc_localsgd.worlds.base import World

EVERY_ROUND = 100_000  # rounds of a run that are looked at one by one


def make_run(resolved: Resolved, world: World) -> tuple[Run, Units]:
    """Make the objects of a run, with every duration in steps.

    Raises:
        ConfigurationError: On all ranks alike.
    """
    config = resolved.config
    task = agree(world, lambda: built(config.task, context_of(config, world)))
    check_same(world, _described(task))
    task.x[:] = task.init(config.seed)
    torch.manual_seed(seed_of(config.seed, world.local_workers[0]))  # of dropout, if R = 1
    world.broadcast(task.x)
    task = config.gradient.wrap(task, world, config.seed)
    units = units_of(config, task.partition)
    units = shortened(units) if config.smoke else units
    if (noisy := units.steps(config.label_noise_from, "--label-noise-from")) > 0:
        agree(world, lambda: task.noisy_from(noisy))
    rate = config.rate.in_steps(units)
    optimizer = LocalOptimizer(
        resolved.optimizer, task, config.momentum_at_sync, config.moments_every
    )
    algorithm = config.algorithm
    if config.on_nan == "quarantine":
        algorithm = QuarantinedAlgorithm(algorithm, optimizer, task)
    run = Run(
        task=task,
        algorithm=algorithm,
        schedule=config.schedule.in_steps(units, int(rate.warmup)),
        rate=rate,
        optimizer=optimizer,
        batchnorm=BatchNorm(config.batchnorm, config.batchnorm_batches),
        world=world,
        steps=units.total or 0,
    )
    check_rounds(config.algorithm, run.schedule, rate, run.steps)
    return run, units


NO_SUCH_SIZES = (RuntimeError, MemoryError, ValueError, TypeError, ArithmeticError)


def built(spec: TaskSpec, context: TaskContext) -> Task:
    """Make a task; raise ConfigurationError, in words, where a model of these sizes is impossible.

    Raises:
        ConfigurationError: There is no memory for it, no such model, or data that one may not read.
    """
    try:
        return spec.build(context)
    except (ConfigurationError, DataError):
        raise  # says in words already what is wrong
    except PermissionError as error:  # a folder of somebody else
        raise ConfigurationError(f"cannot read {error.filename}: {error.strerror}") from error
    except NO_SUCH_SIZES as error:
        raise ConfigurationError(cannot_be_made(spec, context.workers, error)) from error


def cannot_be_made(spec: TaskSpec, workers: int, error: BaseException) -> str:
    """Explain why a task of these sizes cannot be made."""
    why = (str(error).splitlines() or ["no memory"])[0]
    return (
        f"--task {type(spec).__name__} for {workers} workers cannot be made ({why}): "
        "type other sizes, or fewer --workers"
    )


def check_rounds(algorithm: Algorithm, schedule: Schedule, rate: Rate, steps: int) -> None:
    """Check that the algorithm can run the rounds of the schedule.

    Raises:
        ConfigurationError: It takes single steps only, and there are longer rounds.
    """
    if not algorithm.only_single_steps:
        return
    first = next((r for r in islice(rounds(schedule, rate, steps), EVERY_ROUND) if r.H > 1), None)
    for t in range(EVERY_ROUND, steps, max(1, steps // 1000)):  # there may be thousands of millions
        H = min(schedule(t, rate(t)), steps - t)
        first = first or (Round(t, t + H, rate(t)) if H > 1 else None)
    if first is not None or schedule.observes:
        which = f"a round of {first.H} steps from step {first.begin}" if first else "longer rounds"
        raise ConfigurationError(
            f"{type(algorithm).__name__} exchanges at every step, and {schedule} has {which}: use "
            "--schedule every --schedule.steps 1"
        )


def _described(task: Task) -> list[str]:
    """Describe a task: what another model or other data on a rank would change."""
    return [
        *(f"parameter {i} of {size} numbers" for i, size in enumerate(task.sizes)),
        f"numbers of {task.x.dtype}",
        *(f"{samples} samples to {split}" for split, samples in task.splits.items()),
        f"{task.buffers.shape[1]} numbers in buffers",
    ]


def context_of(config: Config, world: World) -> TaskContext:
    """Return what the options say that a task has to know."""
    return TaskContext(
        workers=world.K,
        local_workers=world.local_workers,
        batch=config.batch_per_worker,
        seed=config.seed,
        device=world.device,
        dtype=getattr(torch, config.dtype),
        replacement=config.sampling == "replacement",
        remainder=config.remainder,
        shards=config.partition,
        execution=execution(config),
    )


def execution(config: Config) -> Execution:
    """Return how the task computes, from the options."""
    return Execution(**{field.name: getattr(config, field.name) for field in fields(Execution)})
