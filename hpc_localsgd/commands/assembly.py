"""From options to objects: the one place that knows every floor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.commands.configuration.config import LENGTH, Config, Resolved, essence
from hpc_localsgd.commands.results import remove_results
from hpc_localsgd.commands.resuming import NEW, OTHERS, Continued, continued
from hpc_localsgd.commands.smoke import hurried
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.engine.agreement import agree as agree
from hpc_localsgd.engine.agreement import check_same as check_same
from hpc_localsgd.engine.agreement import digest, hosts_of
from hpc_localsgd.engine.batchnorm import BatchNorm
from hpc_localsgd.engine.optimizer import LocalOptimizer
from hpc_localsgd.environment.ending import about_the_launcher
from hpc_localsgd.environment.launch import Launch
from hpc_localsgd.environment.reach import check_before
from hpc_localsgd.loop import Position, Run
from hpc_localsgd.run.checkpoint import Checkpoints, Keeper
from hpc_localsgd.run.extension import Course, lengthened
from hpc_localsgd.run.probes import (
    Deviations,
    Evaluation,
    Gradients,
    Probe,
    Skipped,
    Snapshot,
    Spread,
)
from hpc_localsgd.run.quarantine import Quarantine
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.run.run_lock import Presence
from hpc_localsgd.run.shared_folder import held
from hpc_localsgd.run.stopping import GONE, Stopping
from hpc_localsgd.run.watchdog import Watchdog, stuck
from hpc_localsgd.schedules.duration import Units, seconds
from hpc_localsgd.schedules.local_steps import Round, Schedule, rounds
from hpc_localsgd.schedules.rates import Rate
from hpc_localsgd.tasks.base import Setting, Task, TaskSpec
from hpc_localsgd.tasks.execution import Execution
from hpc_localsgd.trajectory import Writer
from hpc_localsgd.trajectory.header import Header
from hpc_localsgd.trajectory.moved_classes import where_then
from hpc_localsgd.types import ConfigurationError, DataError, Gone, NotKept, legend
from hpc_localsgd.worlds.base import World, check_workers
from hpc_localsgd.worlds.horovod import Horovod
from hpc_localsgd.worlds.mpi import Mpi
from hpc_localsgd.worlds.simulated import Simulated
from hpc_localsgd.worlds.software import check_same_software
from hpc_localsgd.worlds.torch import Torch

DEFAULT_EPOCHS = 60.0
EVERY_ROUND = 100_000  # rounds of a run that are looked at one by one
_WORLDS = {"horovod": Horovod, "mpi": Mpi, "torch": Torch}


def make_world(config: Config, launch: Launch) -> World:
    """Make the world that the options of a run ask for, on this rank's device.

    Raises:
        ConfigurationError: The world cannot be made, or K is no multiple of the ranks.
    """
    return join_world(launch, config.world, config.device, config.workers, config.fabric)


def join_world(
    launch: Launch,
    kind: str = "auto",
    device: str = "auto",
    workers: int | None = None,
    fabric: str = "10GbE",
) -> World:
    """Make a world of a kind, on this rank's device.

    Args:
        launch: How this process was started.
        kind: auto, simulated, horovod, mpi or torch, as `--world`.
        device: As `--device`.
        workers: K; None for one a rank.
        fabric: The network whose seconds the simulated world counts.

    Raises:
        ConfigurationError: The world cannot be made, or K is no multiple of the ranks.
    """
    n = started(launch)
    if kind == "auto":
        kind = "simulated" if n == 1 else _kind(launch)
        _refuse_lone_process(workers, launch)
    if kind == "simulated":
        if n != 1:
            raise ConfigurationError(
                f"{launch.launcher} started {n} processes, and the simulated world is one: "
                "start it without a launcher, or use --world horovod or mpi"
            )
        return Simulated(workers, _device(device, 0), network(fabric))
    if n is not None and workers is not None:
        check_workers(workers, n)
    if launch.launcher not in ("none", "sbatch"):
        check_before(os.environ, launch, kind)
    world = _WORLDS[kind](workers, _device(device, launch.local_rank))
    if n is not None and world.n != n:
        raise ConfigurationError(
            f"{launch.launcher} started {n} processes, but {kind} joined {world.n}: "
            "the launcher and the library belong to different MPIs; "
            "run `python -m hpc_localsgd doctor` under the same launcher"
        )
    return world


def started(launch: Launch) -> int | None:
    """Return the number of processes that the launcher started; None if it does not say."""
    return 1 if launch.launcher in ("none", "sbatch") else launch.size


def _kind(launch: Launch) -> str:
    """Return the kind of world for a launched job that named none."""
    if launch.launcher == "torchrun":
        return "torch"
    return "horovod" if find_spec("horovod") else "mpi"


def _refuse_lone_process(workers: int | None, launch: Launch) -> None:
    """Refuse a lone process in a job of several tasks: its launcher was forgotten."""
    if launch.launcher == "sbatch" and (launch.size or 1) > 1 and workers is None:
        raise ConfigurationError(
            f"Slurm gave this job {launch.size} tasks, but one process was started: put "
            "`srun --mpi=pmix` in front, or say --world simulated --workers K"
        )


def make_run(resolved: Resolved, world: World) -> tuple[Run, Units]:
    """Make the objects of a run, with every duration in steps.

    Raises:
        ConfigurationError: On all ranks alike.
    """
    config = resolved.config
    task = agree(world, lambda: built(config.task, _setting(config, world)))
    check_same(world, f"{task.sizes} {task.x.dtype} {dict(task.splits)} {task.buffers.shape[1:]}")
    task.x[:] = task.init(config.seed)
    torch.manual_seed((config.seed * 1_000_003 + world.rank) % 2**63)  # of dropout and the like
    world.broadcast(task.x)
    task = config.gradient.wrap(task, world, config.seed)
    units = Units(task.partition.steps_per_epoch, task.partition.per_step)
    units = Units(units.steps_per_epoch, units.samples_per_step, _steps(config, units))
    units = hurried(units) if config.smoke else units
    rate = config.rate.in_steps(units)
    optimizer = LocalOptimizer(resolved.optimizer, task, config.momentum_at_sync)
    algorithm = config.algorithm
    if config.on_nan == "quarantine":
        algorithm = Quarantine(algorithm, optimizer, task)
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


NO_SUCH_SIZES = (
    RuntimeError,
    MemoryError,
    OverflowError,
    ValueError,
    TypeError,
    ArithmeticError,
)


def built(spec: TaskSpec, setting: Setting) -> Task:
    """Make a task; raise ConfigurationError, in words, where a model of these sizes is impossible.

    Raises:
        ConfigurationError: There is no memory for it, or no such model.
    """
    try:
        return spec.build(setting)
    except (ConfigurationError, DataError):
        raise  # says in words already what is wrong
    except NO_SUCH_SIZES as error:
        raise ConfigurationError(cannot_be_made(spec, setting.workers, error)) from error


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


def probes(config: Config, units: Units) -> tuple[list[Probe], Spread]:
    """Make the probes, with cadences in steps."""
    evaluation = Evaluation(
        units.cadence(config.evaluate_every, "--evaluate-every"),
        ("test",),
        config.evaluate_workers,
    )
    snaps = units.cadence(config.snapshot_every, "--snapshot-every")
    snapshot = Snapshot(snaps, config.snapshot_workers)
    if config.probe_samples < 1:
        raise ConfigurationError(f"--probe-samples {config.probe_samples}: give at least one")
    often = units.cadence(config.deviations_every, "--deviations-every")
    deviations = Deviations(often, config.probe_samples)
    often = units.cadence(config.gradients_every, "--gradients-every")
    gradients = Gradients(often, config.probe_samples, fresh=config.task.fresh)
    often = units.cadence(config.spread_every, "--spread-every")
    around = Spread(often, (deviations, gradients))
    return [evaluation, Skipped(evaluation.every), snapshot], around


@dataclass
class Job:
    """Objects of one run on this rank, ready for `start` and `loop.train`."""

    run: Run
    units: Units
    position: Position
    record: Recorder
    keeper: Keeper
    keeps: bool  # places to resume from, as a trial does not
    out: Path
    hosts: list[str]

    def start(self) -> None:
        """Measure and save the state before the first step."""
        self.record.start(self.position)
        if self.keeps:
            self.keeper.begin(self.position, self.record)

    def keep(self, p: Position) -> None:
        """Save a position to resume from, between two steps, and stop there when asked.

        Raises:
            Stopped: The run was asked to stop.
        """
        if self.keeps:
            self.keeper.between_steps(p)

    def close(self, status: str) -> None:
        """Close the record as complete, stopped or diverged.

        Raises:
            NotKept: It was to be complete, and could not be written.
            Gone: It was to be complete, and is not there any more.
        """
        try:
            self.keeper.finish()
            written = self.record.close(status)
        finally:  # the folder is this run's until nothing more is written
            self.keeper.at_the_end()
        if self.record.gone and status == "complete":
            raise Gone(
                f"the run is done and its last checkpoint is written, but {self.record.gone}"
            )
        if not written and status == "complete":
            raise NotKept(
                "the run is done, but not all of its record is on the disk: "
                f"{self.keeper.to_mend()}"
            )


def make_job(
    resolved: Resolved,
    world: World,
    show: Callable[[int, dict[str, float]], None],
    stopping: Stopping | None = None,
) -> Job:
    """Make objects, folder and trajectory, and load the last checkpoint when resuming.

    Raises:
        ConfigurationError: On all ranks alike, before anything is overwritten.
    """
    config = resolved.config
    check_same_software(world)
    check_same(world, resolved.text)
    if (config.resume or config.resume_from_mean) and config.overwrite:
        raise ConfigurationError("--resume continues a run, --overwrite replaces it: give one")
    if config.extend and not (config.resume or config.resume_from_mean):
        raise ConfigurationError("--extend changes how a run is resumed: add --resume")
    with held(world, Path(config.out)) as presence:
        return _make_job(resolved, world, show, stopping or Stopping(), presence)


def _make_job(
    resolved: Resolved,
    world: World,
    show: Callable[[int, dict[str, float]], None],
    stopping: Stopping,
    presence: Presence | None,
) -> Job:
    """Make a job, see `make_job`, in a folder that this process has locked."""
    config, out = resolved.config, Path(resolved.config.out)
    how = continued(config, resolved.text, world)
    stopping.look_at(out)
    run, units = make_run(resolved, world)
    measured, spread = probes(config, units)
    often = checkpoint_cadence(config, units)
    first = world.rank == 0
    checkpoints = Checkpoints(out, world, config.checkpoint_keep, *_digests(resolved.text))
    position, place = how.position(run, checkpoints, partial(_lengthened, config, run, units))
    writer = agree(
        world, lambda: open_record(resolved, run, units, position.t, how) if first else None
    )
    after = place.after if place is not None else 0
    keeper = Keeper(run, checkpoints, stopping, *often, after)
    record = Recorder(run, measured, spread, writer, show)
    if place is not None:
        record.restore(place.state["record"])
    if not config.smoke:
        watchdog = make_watchdog(config, run, keeper, stopping, out)
        look = partial(_each_second, watchdog, presence, stopping)
        stopping.attend(look, keeper.leave, watchdog.over)
    if presence is not None:
        keeper.at_the_end = presence.end
    keeps = not config.smoke  # a trial leaves nothing to resume from
    return Job(run, units, position, record, keeper, keeps, out, hosts_of(world))


def _digests(text: str) -> tuple[str, list[str]]:
    """Return the digest of a configuration, and those that earlier versions gave it."""
    texts = (text, where_then(text))
    ours, *also = (digest(essence(each, but)) for each in texts for but in (LENGTH, ()))
    return ours, also


def _lengthened(config: Config, run: Run, units: Units, state: Mapping[str, Any]) -> str:
    """Say what changes when a run of so many steps resumes from a checkpoint of another length.

    Raises:
        ConfigurationError: The steps so far would have been others, and it was not asked for.
    """
    then = replace(units, total=int(state["steps"]))
    rate = config.rate.in_steps(then)
    schedule = config.schedule.in_steps(then, int(rate.warmup))
    before = Course(int(state["steps"]), rate, schedule)
    now = Course(run.steps, run.rate, run.schedule)
    return lengthened(state, before, now, config.algorithm, config.extend)


def checkpoint_cadence(config: Config, units: Units) -> tuple[int, float]:
    """Return the cadence of checkpoints in steps and in seconds; the one not used is 0."""
    every, option = config.checkpoint_every, "--checkpoint-every"
    by_clock = seconds(every, option)
    return (units.cadence(every, option, or_time=True), 0.0) if by_clock is None else (0, by_clock)


def _each_second(watchdog: Watchdog, presence: Presence | None, stopping: Stopping) -> None:
    if presence is not None and not presence.renew():
        stopping.ask(f"{presence.file} is another run's", GONE)
    watchdog.look()


def make_watchdog(
    config: Config, run: Run, keeper: Keeper, stopping: Stopping, out: Path
) -> Watchdog:
    """Make the watchdog that ends a job that hangs, timed by the longest round of the plan."""
    # Not round by round: there may be millions, and a bound three times as long needs no more.
    longest = run.schedule.longest(run.rate, run.steps)
    least_s = watchdog_s(config)
    alarm = stuck(run.world.rank, out)
    return Watchdog(keeper, run.world, stopping, out, longest, least_s, about_the_launcher, alarm)


def watchdog_s(config: Config) -> float:
    """Return the least seconds without a step after which a job counts as hung; 0 for never.

    Raises:
        ConfigurationError: No time.
    """
    return _time_or_never(config.watchdog, "--watchdog", "10 minutes")


def log_every_s(config: Config) -> float:
    """Return the seconds between two lines of the log; 0 for none but those at evaluations.

    Raises:
        ConfigurationError: No time.
    """
    return _time_or_never(config.log_every, "--log-every", "30 seconds")


def _time_or_never(given: int | str, option: str, like: str) -> float:
    found = 0.0 if str(given) == "0" else seconds(given, option)
    if found is None:
        raise ConfigurationError(f'{option} {given}: type a time ("{like}"), or 0 for none')
    return found


def open_record(resolved: Resolved, run: Run, units: Units, t0: int, how: Continued) -> Writer:
    """Make, on rank 0, the folder, config.yaml, and trajectory.h5 or its next segment."""
    config, out = resolved.config, Path(resolved.config.out)
    if how.mode == "overwrite":
        for folder in ("checkpoints", NEW, OTHERS):
            shutil.rmtree(out / folder, ignore_errors=True)
        remove_results(out)
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
    return Writer(out, header, mode=how.mode, snapshot_dtype=config.snapshot_dtype)


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
        execution=execution(config),
    )


def execution(config: Config) -> Execution:
    """Return how the task computes, from the options."""
    return Execution(**{field.name: getattr(config, field.name) for field in fields(Execution)})


def _steps(config: Config, units: Units) -> int:
    given = config.steps
    if given is None:
        given = f"{DEFAULT_EPOCHS if config.epochs is None else config.epochs} epochs"
    steps = units.steps(given, "--epochs" if config.steps is None else "--steps")
    if steps < 1:
        raise ConfigurationError(f"a run of {given} is {steps} steps: give at least one")
    return steps


def _device(name: str, local_rank: int | None) -> torch.device:
    """Return the device asked for; for a bare "cuda" the GPU of this rank.

    Raises:
        ConfigurationError: It cannot be used, or it is unknown which GPU is this rank's.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU")
            if ":" not in name:
                gpus = max(1, torch.cuda.device_count())
                if local_rank is None and gpus > 1:
                    raise ConfigurationError(
                        f"this host has {gpus} GPUs, and the launcher does not say which rank of "
                        "the host this is: set CUDA_VISIBLE_DEVICES for each rank (srun "
                        "--gpus-per-task=1), or give LOCAL_RANK"
                    )
                device = torch.device("cuda", (local_rank or 0) % gpus)
            torch.cuda.set_device(device)  # events and NCCL's barrier use the current device
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ConfigurationError(
            f"--device {name} cannot be used here ({why}): type --device cpu, or leave it out"
        ) from error
    return device
