"""How a job begins: a new run, one in place of an old run, or an old run continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml

from hpc_localsgd.commands.configuration.config import Config
from hpc_localsgd.commands.configuration.names import name_at
from hpc_localsgd.commands.configuration.resume_key import LENGTH, resume_key
from hpc_localsgd.commands.derived_files import check_folder
from hpc_localsgd.commands.resuming_from_mean import (
    OTHERS,
    is_other,
    replace_checkpoints,
    to_the_mean,
)
from hpc_localsgd.engine.agreement import agree, check_same, of_rank_0
from hpc_localsgd.engine.position import Position, Run
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.checkpoint.catching_up import catch_up
from hpc_localsgd.run.checkpoint.folder import Checkpoints
from hpc_localsgd.run.checkpoint.listing import last_complete
from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint
from hpc_localsgd.run.checkpoint.vetting import check_place
from hpc_localsgd.run.resume_auto import anew
from hpc_localsgd.run.stderr import say
from hpc_localsgd.trajectory import Trajectory, TrajectoryError, segment_paths
from hpc_localsgd.trajectory.safe_text import load_yaml

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

Mode = Literal["new", "overwrite", "resume"]
OtherLength = Callable[[Mapping[str, Any]], str]
MODES: tuple[Mode, ...] = ("new", "overwrite", "resume")


@dataclass(frozen=True)
class Continued:
    """Start of a job, equal on all ranks.

    Attributes:
        mode: In an empty folder, in place of what is there, or continuing it.
        from_mean: Whether to continue from the mean model, with another number of workers.
    """

    mode: Mode
    from_mean: bool = False

    def position(
        self, run: Run, checkpoints: Checkpoints, other: OtherLength
    ) -> tuple[Position, RankCheckpoint | None]:
        """Return where the run begins, and the checkpoint it comes from. All ranks together.

        Args:
            run: Its objects.
            checkpoints: Where places are.
            other: Says what it means that the run was begun with another length.

        Raises:
            ConfigurationError: There is no checkpoint to resume from; on all ranks alike.
        """
        world, out = run.world, checkpoints.folder.parent
        if self.mode != "resume":
            return run.beginning(), None
        if self.from_mean:
            start = to_the_mean(run, out)
            replace_checkpoints(checkpoints, RankCheckpoint.of(run, _at(start, run), start[0]))
        place = checkpoints.load()
        p = _as_begun(run, place).beginning()
        agree(world, lambda: check_place(place, run, p))  # on all ranks, before any loads a part
        said = agree(world, lambda: _of_length(place, run, other))
        agree(world, lambda: place.restore(run, p))
        agree(world, lambda: catch_up(run, p, place))
        check_same(world, [f"resumed after the exchange of step {place.after}"])
        _at_another_length(said, place, run, p, checkpoints)
        p.state = run.algorithm.resume(p.state, world)
        return p, place


def _at(start: tuple[int, int, bool], run: Run) -> Position:
    """Return the beginning of a run moved to the step, round and phase where a round ended."""
    p = run.beginning()
    p.t, p.s, p.parallel = start
    p.begin = p.end = p.t
    return p


def _as_begun(run: Run, place: RankCheckpoint) -> Run:
    """Return a run with what its algorithm settled by the hosts where it began."""
    state = place.state.get("sync")
    state = state if isinstance(state, dict) else {}
    algorithm = agree(run.world, lambda: run.algorithm.as_begun(state))
    check_same(run.world, [f"a checkpoint of {algorithm!r}"])  # `init` is of all ranks together
    return replace(run, algorithm=algorithm)


def _of_length(place: RankCheckpoint, run: Run, other: OtherLength) -> str:
    """Say what follows if a checkpoint is of a run of another length; "" if it is not."""
    return "" if place.state["steps"] == run.steps else other(place.state)


def _at_another_length(
    said: str, place: RankCheckpoint, run: Run, p: Position, checkpoints: Checkpoints
) -> None:
    """Resume with another length: say so, and keep the result of a run that was finished."""
    p.end = min(p.end, run.steps)  # a round under way ends with a run that became shorter
    finished = place.after == place.state["steps"] != run.steps
    if run.world.gather(np.full(run.world.R, finished)).any():
        checkpoints.preserve(place.after)
    if said and run.world.rank == 0:
        say(said)


def continued(config: Config, text: str, world: World) -> Continued:
    """Decide from options and folder how to begin.

    Where nobody says how many workers a resumed run has, the world gets those that it had.

    Rank 0 looks and decides. The folder is made if it is missing, a `STOP` of the job before is
    removed (the folder is held already), and `--resume auto` moves files that cannot be used aside.

    Raises:
        ConfigurationError: --out holds a run and may not be touched, or cannot be resumed.
    """
    first = world.rank == 0
    found = agree(world, lambda: _decide(config, text, world) if first else Continued("new"))
    code = of_rank_0(world, 2 * MODES.index(found.mode) + found.from_mean)
    how = Continued(MODES[code // 2], bool(code % 2))
    if how.mode == "resume" and config.workers is None and not config.resume_from_mean:
        K = agree(world, lambda: _workers_before(Path(config.out)) if first else 0)
        world.place_workers(of_rank_0(world, K))  # raises on all ranks alike
    return how


def _workers_before(out: Path) -> int:
    """Return K of the run in a folder: ranks are the machine's, workers are the run's."""
    return int(Trajectory(segment_paths(out)[-1], segments=False).K)


def _decide(config: Config, text: str, world: World) -> Continued:
    """Return rank 0's decision."""
    out = Path(config.out)
    resume = config.resume or config.resume_from_mean
    (out / "STOP").unlink(missing_ok=True)
    last = last_complete(out)
    if config.resume == "auto" and last is None:
        check_folder(out)
        return Continued(_anew(out, text), from_mean=False)
    if resume:
        check_same_config(out / "trajectory.h5", text, config.resume_from_mean, of_any_length=True)
        from_mean = config.resume_from_mean and is_other(out, world)
        if from_mean:  # which continues at the same share of the run
            check_same_config(out / "trajectory.h5", text, other_workers=True)
        return Continued("resume", from_mean)
    kept = any((out / "checkpoints").glob("*")) or (out / "trajectory.h5").exists()
    if kept and not config.overwrite:
        raise ConfigurationError(
            f"{out} holds a run already: add --resume to continue it, --overwrite to replace it, "
            "or give another --out"
        )
    check_folder(out)
    return Continued("overwrite" if config.overwrite else "new", from_mean=False)


def _anew(out: Path, text: str) -> Mode:
    """Return the mode of --resume auto without a checkpoint.

    Raises:
        ConfigurationError: A job was killed while it exchanged the checkpoints of other workers, or
            what is there might be missed.
    """
    if (out / OTHERS).exists() and not (out / "checkpoints").exists():
        raise ConfigurationError(
            f"a job was killed while it put its checkpoints in the place of those of other workers:"
            f" mv {out / OTHERS} {out / 'checkpoints'}, and start it again"
        )
    return anew(out, lambda: check_same_config(out / "trajectory.h5", text))


def check_same_config(
    record: Path, text: str, other_workers: bool = False, of_any_length: bool = False
) -> None:
    """Check that a run was begun with the options this job was given.

    Args:
        record: Its trajectory.
        text: The options.
        other_workers: Whether the number of workers may differ.
        of_any_length: Whether steps and epochs may.

    Raises:
        ConfigurationError: It was not, or there is no such run.
    """
    if not record.exists():
        raise ConfigurationError(
            f"nothing to resume in {record.parent}: there is no trajectory.h5. To begin a run "
            "there leave --resume out, or give --resume auto"
        )
    try:
        before = Trajectory(segment_paths(record)[-1], segments=False).config_text
    except TrajectoryError as error:
        raise ConfigurationError(f"cannot --resume: {error}") from error
    try:
        but = LENGTH if of_any_length else ()
        was, now = (_flat(dict(load_yaml(resume_key(t, but)) or {})) for t in (before, text))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"cannot --resume: {record}: its options are unreadable"
        ) from error
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if other_workers and "workers" in names:
        names.remove("workers")
    if names:
        # Of another class all options differ: the class says it.
        apart = [n for n in names if not any(n.startswith(f"{other}.") for other in names)]
        told = (f"--{n} {_typed(n, now)}, where it was {_typed(n, was)}" for n in apart)
        folder = record.parent
        more = " (other workers: --resume-from-mean)" if "workers" in names else ""
        raise ConfigurationError(
            f"--resume needs the options the run began with, and these differ: {'; '.join(told)}. "
            f"Type --config {folder / 'config.yaml'} --out {folder} --resume{more}"
        )


def _typed(option: str, options: dict[str, Any]) -> str:
    """Return the value of an option as it is typed: a class by its short name."""
    value = options.get(option)
    if isinstance(value, str) and value.startswith(("hpc_localsgd.", "torch.")):
        return name_at(option.rpartition(".")[2], value)
    return str(value)


def _flat(options: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return options by their dotted names, as they are typed."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        inside = name in ("class_path", "init_args")
        dotted = above if inside else f"{above}.{name}" if above else str(name)
        found |= _flat(value, dotted) if isinstance(value, dict) else {dotted: value}
    return found
