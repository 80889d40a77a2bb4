"""A job: a run with its folder, record, checkpoints and watchdog, ready to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hpc_localsgd.commands.assembly.cadences import checkpoint_cadence, probes, watchdog_s
from hpc_localsgd.commands.assembly.objects import make_run
from hpc_localsgd.commands.configuration.config import Config, Resolved
from hpc_localsgd.commands.configuration.config_in_folder import write_config
from hpc_localsgd.commands.configuration.resume_key import LENGTH, resume_key
from hpc_localsgd.commands.derived_files import remove_checkpoints, remove_results
from hpc_localsgd.commands.init_from import begun_from
from hpc_localsgd.commands.resuming import Continued, continued
from hpc_localsgd.engine.agreement import agree, check_same, digest, hosts_of
from hpc_localsgd.environment.stuck_launcher import about_the_launcher
from hpc_localsgd.errors import ConfigurationError, Gone, NotKept
from hpc_localsgd.loop import Position, Run
from hpc_localsgd.run.checkpoint import CheckpointManager, Checkpoints
from hpc_localsgd.run.extend import Timetable, describe_extension
from hpc_localsgd.run.final_model import FILE_NAME, final_tensors, write_tensors
from hpc_localsgd.run.loggers import LiveCurves, live_curves
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.run.run_lock import RunLock
from hpc_localsgd.run.shared_folder import held
from hpc_localsgd.run.stderr import say
from hpc_localsgd.run.stopping import GONE, StopListener
from hpc_localsgd.run.watchdog import Watchdog, stuck
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.trajectory import Writer
from hpc_localsgd.trajectory.header import Header
from hpc_localsgd.trajectory.moved_classes import where_then
from hpc_localsgd.types import legend
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.version_check import check_same_software


@dataclass
class Job:
    """All objects of one run on this rank, ready for `start` and `loop.train`."""

    run: Run
    units: Units
    position: Position
    record: Recorder
    curves: LiveCurves
    keeper: CheckpointManager
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

    def keep_model(self, p: Position) -> None:
        """Write the mean model, on rank 0. A collective; a full disk ends nothing.

        Args:
            p: The end of the run.
        """
        named = final_tensors(self.run, p)
        if self.run.world.rank == 0:
            try:
                write_tensors(self.out / FILE_NAME, named, p.t)
            except OSError as error:
                say(f"no {FILE_NAME}: {error.strerror or error}")

    def close(self, status: str) -> None:
        """Close the record as complete, stopped or diverged.

        Raises:
            NotKept: It was to be complete, and could not be written.
            Gone: It was to be complete, and is not there any more.
        """
        try:
            self.keeper.finish()
            written = self.record.close(status)
            self.curves.close(status)
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
    stopping: StopListener | None = None,
) -> Job:
    """Make objects, folder and trajectory, and load the last checkpoint when resuming.

    Raises:
        ConfigurationError: On all ranks alike, before anything is overwritten.
    """
    config = resolved.config
    check_same_software(world)
    check_same(world, resolved.text.splitlines())
    if (config.resume or config.resume_from_mean) and config.overwrite:
        raise ConfigurationError("--resume continues a run, --overwrite replaces it: give one")
    if config.extend and not (config.resume or config.resume_from_mean):
        raise ConfigurationError("--extend changes how a run is resumed: add --resume")
    with held(world, Path(config.out)) as lock:
        return _make_job(resolved, world, show, stopping or StopListener(), lock)


def _make_job(
    resolved: Resolved,
    world: World,
    show: Callable[[int, dict[str, float]], None],
    stopping: StopListener,
    lock: RunLock | None,
) -> Job:
    """Make a job, see `make_job`, in a folder that this process has locked."""
    config, out = resolved.config, Path(resolved.config.out)
    how = continued(config, resolved.text, world)
    stopping.look_at(out)
    run, units = make_run(resolved, world)
    measured, spread = probes(config, units)
    spread.check(run)
    often = checkpoint_cadence(config, units)
    first = world.rank == 0
    checkpoints = Checkpoints(out, world, config.checkpoint_keep, *_digests(resolved.text))
    whence = begun_from(config, run) if how.mode != "resume" else ""
    position, place = how.position(
        run, checkpoints, partial(_describe_extension, config, run, units)
    )
    writer = agree(
        world,
        lambda: open_record(resolved, run, units, position.t, how, whence) if first else None,
    )
    after = place.after if place is not None else 0
    keeper = CheckpointManager(run, checkpoints, stopping, *often, after)
    curves = LiveCurves(None) if writer is None else live_curves(config.log, out, resolved.text)
    record = Recorder(run, measured, spread, writer, show, curves.log)
    if place is not None:
        record.restore(place.state["record"])
    if not config.smoke:
        watchdog = make_watchdog(config, run, keeper, stopping, out)
        look = partial(_each_second, watchdog, lock, stopping)
        stopping.attend(look, keeper.leave, watchdog.over)
    if lock is not None:
        keeper.at_the_end = lock.end
    keeps = not config.smoke  # a trial leaves nothing to go on from
    return Job(run, units, position, record, curves, keeper, keeps, out, hosts_of(world))


def _digests(text: str) -> tuple[str, list[str]]:
    """Return the digest of a configuration, and those that earlier versions gave it."""
    texts = (text, where_then(text))
    ours, *also = (digest(resume_key(each, but)) for each in texts for but in (LENGTH, ()))
    return ours, also


def _describe_extension(config: Config, run: Run, units: Units, state: Mapping[str, Any]) -> str:
    """Say what changes when a run of so many steps resumes from a checkpoint of another length.

    Raises:
        ConfigurationError: The steps so far would have been others, and nobody asked for it.
    """
    then = replace(units, total=int(state["steps"]))
    rate = config.rate.in_steps(then)
    schedule = config.schedule.in_steps(then, int(rate.warmup))
    before = Timetable(int(state["steps"]), rate, schedule)
    now = Timetable(run.steps, run.rate, run.schedule)
    return describe_extension(state, before, now, config.algorithm, config.extend)


def _each_second(watchdog: Watchdog, lock: RunLock | None, stopping: StopListener) -> None:
    if lock is not None and not lock.renew():
        stopping.ask(f"{lock.file} is another run's", GONE)
    watchdog.look()


def make_watchdog(
    config: Config, run: Run, keeper: CheckpointManager, stopping: StopListener, out: Path
) -> Watchdog:
    """Make the watchdog that ends a job that hangs, timed by the longest round of the plan."""
    # Not round by round: there may be millions, and a bound three times as long needs no more.
    longest = run.schedule.longest(run.rate, run.steps)
    least_s = watchdog_s(config)
    alarm = stuck(run.world.rank, out)
    return Watchdog(keeper, run.world, stopping, out, longest, least_s, about_the_launcher, alarm)


def open_record(
    resolved: Resolved, run: Run, units: Units, t0: int, how: Continued, whence: str = ""
) -> Writer:
    """Make, on rank 0, the folder, config.yaml, and trajectory.h5 or its next segment."""
    config, out = resolved.config, Path(resolved.config.out)
    if how.mode == "overwrite":
        remove_checkpoints(out)
        remove_results(out)
    out.mkdir(parents=True, exist_ok=True)
    write_config(out, resolved.text)
    header = Header(
        config=resolved.text,
        task=legend(config.task),
        algorithm=legend(config.algorithm),
        schedule=repr(run.schedule),
        world=repr(run.world),
        K=run.world.K,
        P=run.task.dim,
        seed=config.seed,
        clock="modelled" if run.world.ledger.modelled else "measured",
        t0=t0,
        steps=run.steps,
        steps_per_epoch=units.steps_per_epoch,
        begins_from=whence,
    )
    return Writer(out, header, mode=how.mode, snapshot_dtype=config.snapshot_dtype)
