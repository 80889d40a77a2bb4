"""From options to objects: the one place that knows every floor."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.batchnorm import BatchNorm
from hpc_localsgd.checkpoint import Checkpoints
from hpc_localsgd.config import Config, Resolved
from hpc_localsgd.environment.launch import Launch
from hpc_localsgd.loop import Position, Run
from hpc_localsgd.measured import Measured
from hpc_localsgd.optimizer import LocalOptimizer
from hpc_localsgd.plan.costmodel import network
from hpc_localsgd.plan.duration import Units
from hpc_localsgd.plan.rates import Rate
from hpc_localsgd.plan.schedule import Schedule, rounds, spread_triggered
from hpc_localsgd.probes import Evaluation, Probe, Snapshot, Spread
from hpc_localsgd.recorder import Recorder
from hpc_localsgd.tasks.base import Setting
from hpc_localsgd.trajectory import Trajectory, TrajectoryError, Writer
from hpc_localsgd.trajectory.header import Header
from hpc_localsgd.types import ConfigurationError, Footprint, legend
from hpc_localsgd.worlds.base import World, check_workers
from hpc_localsgd.worlds.horovod import Horovod
from hpc_localsgd.worlds.mpi import Mpi
from hpc_localsgd.worlds.simulated import Simulated
from hpc_localsgd.worlds.torch import Torch

T = TypeVar("T")
DEFAULT_EPOCHS = 60.0
SAID_BYTES = 2000  # of a message that travels between ranks
_WORLDS = {"horovod": Horovod, "mpi": Mpi, "torch": Torch}


def make_world(config: Config, launch: Launch) -> World:
    """The world of the options, on this rank's device.

    Raises:
        ConfigurationError: The world cannot be had, or K is no multiple of the ranks.
    """
    kind: str = config.world
    n = started(launch)
    if kind == "auto":
        kind = "simulated" if n == 1 else _kind(launch)
        _refuse_lone_process(config, launch)
    if kind == "simulated":
        if n != 1:
            raise ConfigurationError(
                f"{launch.launcher} started {n} processes, and the simulated world is one: "
                "start it without a launcher, or use --world horovod or mpi"
            )
        return Simulated(config.workers, _device(config, 0), network(config.fabric))
    if n is not None and config.workers is not None:
        check_workers(config.workers, n)
    device = _device(config, launch.local_rank or 0)
    world = _WORLDS[kind](config.workers, device)
    if n is not None and world.n != n:
        raise ConfigurationError(
            f"{launch.launcher} started {n} processes, but {kind} joined {world.n}: "
            "the launcher and the library belong to different MPIs; "
            "run `python -m hpc_localsgd doctor` under the same launcher"
        )
    return world


def started(launch: Launch) -> int | None:
    """How many processes the launcher started; None if it does not say."""
    return 1 if launch.launcher in ("none", "sbatch") else launch.size


def _kind(launch: Launch) -> str:
    """The world of a launched job that did not name one."""
    if launch.launcher == "torchrun":
        return "torch"
    return "horovod" if find_spec("horovod") else "mpi"


def _refuse_lone_process(config: Config, launch: Launch) -> None:
    """Several tasks in the job and one process of ours is a forgotten launcher."""
    if launch.launcher == "sbatch" and (launch.size or 1) > 1 and config.workers is None:
        raise ConfigurationError(
            f"Slurm gave this job {launch.size} tasks, but one process was started: put "
            "`srun --mpi=pmix` in front, or say --world simulated --workers K"
        )


def make_run(resolved: Resolved, world: World) -> tuple[Run, Units]:
    """The objects of a run, with every duration in steps.

    Raises:
        ConfigurationError: On all ranks alike.
    """
    config = resolved.config
    task = agree(world, lambda: config.task.build(_setting(config, world)))
    check_same(world, f"{task.sizes} {task.x.dtype} {dict(task.splits)} {task.buffers.shape[1:]}")
    torch.manual_seed(config.seed * 1_000_003 + world.rank)  # of dropout and the like
    task.x[:] = task.init(config.seed)
    world.broadcast(task.x)
    task = config.gradient.wrap(task, world, config.seed)
    units = Units(task.partition.steps_per_epoch, task.partition.per_step)
    units = Units(units.steps_per_epoch, units.samples_per_step, _steps(config, units))
    rate = config.rate.in_steps(units)
    run = Run(
        task=task,
        algorithm=_measuring(config),
        schedule=config.schedule.in_steps(units, int(rate.warmup)),
        rate=rate,
        optimizer=LocalOptimizer(resolved.optimizer, task, config.momentum_at_sync),
        batchnorm=BatchNorm(config.batchnorm, config.batchnorm_batches),
        world=world,
        steps=units.total or 0,
    )
    check_rounds(config.algorithm, run.schedule, rate, run.steps)
    return run, units


def check_rounds(algorithm: Algorithm, schedule: Schedule, rate: Rate, steps: int) -> None:
    """Whether the algorithm can do the rounds of the schedule.

    Raises:
        ConfigurationError: It takes single steps only, and there are longer rounds.
    """
    if not algorithm.only_single_steps:
        return
    longest = max(rounds(schedule, rate, steps), key=lambda round: round.H)
    if longest.H > 1 or isinstance(schedule, spread_triggered):
        raise ConfigurationError(
            f"{type(algorithm).__name__} exchanges at every step, and {schedule} has a round of "
            f"{longest.H} steps from step {longest.begin}: use --schedule every --schedule.steps 1"
        )


def probes(config: Config, units: Units) -> tuple[list[Probe], Spread]:
    """What is measured, with cadences in steps."""
    evaluation = Evaluation(
        units.cadence(config.evaluate_every), ("test",), config.evaluate_workers
    )
    snapshot = Snapshot(units.cadence(config.snapshot_every), config.snapshot_workers)
    return [evaluation, snapshot], Spread(units.cadence(config.spread_every))


@dataclass
class Job:
    """Everything of one run on this rank, ready for `loop.train`."""

    run: Run
    position: Position
    record: Recorder
    writer: Writer | None
    out: Path

    def close(self, status: str) -> None:
        """End the record as complete, stopped or diverged."""
        if self.writer is not None:
            self.writer.close(status)


def make_job(
    resolved: Resolved, world: World, show: Callable[[int, dict[str, float]], None]
) -> Job:
    """Objects, folder, trajectory and, when resuming, the last checkpoint.

    Raises:
        ConfigurationError: On all ranks alike, before anything is overwritten.
    """
    config, out = resolved.config, Path(resolved.config.out)
    agree(world, lambda: check_folder(config, resolved.text) if world.rank == 0 else None)
    check_same(world, resolved.text)
    run, units = make_run(resolved, world)
    model = Footprint(run.task.sizes, run.task.x.element_size())
    position = Position(run.task.x, run.algorithm.init(run.task.x, world, model))
    every = units.cadence(config.checkpoint_every)
    checkpoints = Checkpoints(out, run, every, digest=_digest(resolved.text))
    if config.resume:
        agree(world, lambda: checkpoints.load(position))
        check_same(world, f"resumed at step {position.t}")
        position.sync = run.algorithm.resume(position.sync, world)
    first = world.rank == 0
    writer = agree(world, lambda: open_record(resolved, run, position.t, units) if first else None)
    measured, spread = probes(config, units)
    record = Recorder(run, measured, spread, writer, show, checkpoints)
    return Job(run, position, record, writer, out)


def open_record(resolved: Resolved, run: Run, t0: int, units: Units) -> Writer:
    """Rank 0: the folder, config.yaml, and trajectory.h5 or its next segment."""
    config, out = resolved.config, Path(resolved.config.out)
    if config.overwrite:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text(resolved.text)
    header = Header(
        config=resolved.text,
        task=legend(config.task),
        algorithm=legend(config.algorithm),
        schedule=repr(run.schedule),
        world=repr(run.world),
        K=run.world.size,
        P=run.task.dim,
        seed=config.seed,
        clock="modelled" if run.world.ledger.modelled else "measured",
        t0=t0,
        steps=run.steps,
        steps_per_epoch=units.steps_per_epoch,
    )
    mode: Any = "resume" if config.resume else "overwrite" if config.overwrite else "new"
    return Writer(out, header, mode=mode, snapshot_dtype=config.snapshot_dtype)


def check_folder(config: Config, text: str) -> None:
    """Whether --out can be used as asked; nothing is changed but an empty folder made.

    Raises:
        ConfigurationError: It holds a run, or cannot be written, or is of another configuration.
    """
    out = Path(config.out)
    record = out / "trajectory.h5"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to --out {out}: {error.strerror}; give another folder"
        ) from error
    if config.resume and config.overwrite:
        raise ConfigurationError("--resume goes on with a run, --overwrite replaces it: give one")
    kept = any((out / "checkpoints").glob("*")) or record.exists()
    if kept and not (config.resume or config.overwrite):
        raise ConfigurationError(
            f"{out} holds a run already: add --resume to go on with it, --overwrite to replace it, "
            "or give another --out"
        )
    if config.resume:
        _check_same_config(record, text)


def _check_same_config(record: Path, text: str) -> None:
    if not record.exists():
        raise ConfigurationError(f"nothing to resume in {record.parent}: there is no trajectory.h5")
    try:
        before = Trajectory(record).attrs["config"]
    except TrajectoryError as error:
        raise ConfigurationError(f"cannot --resume: {error}") from error
    if before == text:
        return
    changed = set(text.splitlines()) ^ set(before.splitlines())
    names = sorted({line.split(":")[0].strip(" -") for line in changed})
    raise ConfigurationError(
        f"--resume needs the options the run began with, and these differ: {', '.join(names)}; "
        f"use --config {record.parent / 'config.yaml'} --resume"
    )


def agree(world: World, check: Callable[[], T]) -> T:
    """What a check on this rank gives; if it fails on any rank, all raise its message together.

    Raises:
        ConfigurationError: On all ranks alike.
    """
    found: Any = None
    said = b""
    try:
        found = check()
    except (ConfigurationError, TrajectoryError) as error:
        where = f" (on rank {world.rank})" if world.rank else ""
        said = f"{error}{where}".encode()[:SAID_BYTES]
    padded = np.frombuffer(said.ljust(SAID_BYTES, b"\0"), dtype=np.uint8)
    for text in world.gather(np.tile(padded, (len(world.ranks), 1))):
        if text.any():
            raise ConfigurationError(text.tobytes().rstrip(b"\0").decode(errors="replace"))
    return cast(T, found)


def check_same(world: World, text: str) -> None:
    """All ranks must hold the same configuration, or they would wait for each other for ever.

    Raises:
        ConfigurationError: On all ranks alike.
    """
    digest = np.frombuffer(bytes.fromhex(_digest(text)), dtype=np.uint8)
    rows = world.gather(np.tile(digest, (len(world.ranks), 1)))
    other = np.flatnonzero((rows != rows[0]).any(1))
    if len(other):
        raise ConfigurationError(
            f"worker {other[0]} was given other options than worker 0: "
            "start all ranks with the same command line and files"
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _setting(config: Config, world: World) -> Setting:
    return Setting(
        workers=world.size,
        ranks=world.ranks,
        batch=config.batch_per_worker,
        seed=config.seed,
        device=world.device,
        dtype=getattr(torch, config.dtype),
        replacement=config.sampling == "replacement",
        remainder=config.remainder,
    )


def _steps(config: Config, units: Units) -> int:
    given = config.steps
    if given is None:
        given = f"{DEFAULT_EPOCHS if config.epochs is None else config.epochs} epochs"
    steps = units.steps(given)
    if steps < 1:
        raise ConfigurationError(f"a run of {given} is {steps} steps: give at least one")
    return steps


def _measuring(config: Config) -> Algorithm:
    """The algorithm, which also measures where the schedule asks for it."""
    if isinstance(config.schedule, spread_triggered):
        return Measured(config.algorithm, config.schedule)
    return config.algorithm


def _device(config: Config, local_rank: int) -> torch.device:
    """The device asked for; where that is just "cuda", the GPU of this rank."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            if ":" not in name:
                device = torch.device("cuda", local_rank % max(1, torch.cuda.device_count()))
            torch.cuda.set_device(device)  # events and NCCL's barrier use the current device
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ConfigurationError(
            f"--device {name} cannot be used here ({why}): type --device cpu, or leave it out"
        ) from error
    return device
