"""How a job begins: a new run, in place of an old one, or going on with it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
import yaml

from hpc_localsgd.commands.configuration.config import LENGTH, Config, essence
from hpc_localsgd.commands.configuration.names import name_at
from hpc_localsgd.engine.agreement import agree, check_same, of_rank_0
from hpc_localsgd.engine.position import Position, Run
from hpc_localsgd.run.beginnings import anew
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.folder import Checkpoints, all_complete, last_complete
from hpc_localsgd.run.checkpoint.place import Place
from hpc_localsgd.run.checkpoint.sound import check_place
from hpc_localsgd.trajectory import Trajectory, TrajectoryError, segment_paths
from hpc_localsgd.trajectory.text import load_yaml
from hpc_localsgd.types import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

Mode = Literal["new", "overwrite", "resume"]
NEW, OTHERS = "checkpoints-new", "checkpoints-of-other-workers"
OtherLength = Callable[[Mapping[str, Any]], str]
T = TypeVar("T")
MODES: tuple[Mode, ...] = ("new", "overwrite", "resume")


@dataclass(frozen=True)
class Continued:
    """How a job begins, equal on all ranks.

    Attributes:
        mode: With an empty folder, in place of what is there, or going on with it.
        from_mean: Whether going on means from the mean model, with another number of workers.
    """

    mode: Mode
    from_mean: bool = False

    def position(
        self, run: Run, checkpoints: Checkpoints, other: OtherLength
    ) -> tuple[Position, Place | None]:
        """Return where the run begins, and the checkpoint it comes from. All ranks together.

        Args:
            run: Its objects.
            checkpoints: Where places are.
            other: Says what it means that the run was begun with another length.

        Raises:
            ConfigurationError: There is no checkpoint to go on from; on all ranks alike.
        """
        world, out = run.world, checkpoints.folder.parent
        start = _to_the_mean(run, out) if self.from_mean else None
        p = run.beginning()
        if start is not None:
            p.t, p.s, p.parallel = start
            p.begin = p.end = p.t
        if self.mode != "resume":
            return p, None
        if self.from_mean:
            _replace(checkpoints, Place.of(run, p, p.t))
        place = checkpoints.load()
        agree(world, lambda: check_place(place, run, p))  # on all ranks, before any loads a part
        said = agree(world, lambda: _of_length(place, run, other))
        agree(world, lambda: place.restore(run, p))
        check_same(world, f"resumed after the exchange of step {place.after}")
        _at_another_length(said, place, run, p, checkpoints)
        p.sync = run.algorithm.resume(p.sync, world)
        return p, place


def _of_length(place: Place, run: Run, other: OtherLength) -> str:
    """Say what follows if a checkpoint is of a run of another length; "" if it is not."""
    return "" if place.state["steps"] == run.steps else other(place.state)


def _at_another_length(
    said: str, place: Place, run: Run, p: Position, checkpoints: Checkpoints
) -> None:
    """Resume with another length: say so, and keep the result of a run that was finished."""
    p.end = min(p.end, run.steps)  # a round under way ends with a run that became shorter
    finished = place.after == place.state["steps"] != run.steps
    if run.world.gather(np.full(len(run.world.ranks), finished)).any():
        checkpoints.preserve(place.after)
    if said and run.world.rank == 0:
        sys.stderr.write(f"{said}\n")


def continued(config: Config, text: str, world: World) -> Continued:
    """Decide from options and folder how to begin; change nothing, but make an empty folder.

    Rank 0 looks and decides, and a `STOP` of the job before is forgotten: the folder is held
    already.

    Raises:
        ConfigurationError: --out holds a run and may not be touched, or cannot be gone on with.
    """
    first = world.rank == 0
    code = agree(world, lambda: _decide(config, text, world) if first else 0)
    code = of_rank_0(world, code)
    return Continued(MODES[code // 2], bool(code % 2))


def _decide(config: Config, text: str, world: World) -> int:
    """Return rank 0's decision: twice the index in MODES, plus one for from_mean."""
    out = Path(config.out)
    resume = config.resume or config.resume_from_mean
    (out / "STOP").unlink(missing_ok=True)
    last = last_complete(out)
    if config.resume == "auto" and last is None:
        return 2 * MODES.index(_anew(out, text))
    if resume:
        check_same_config(out / "trajectory.h5", text, config.resume_from_mean, of_any_length=True)
        from_mean = config.resume_from_mean and _is_other(out, world)
        if from_mean:  # which goes on at the same share of the run
            check_same_config(out / "trajectory.h5", text, other_workers=True)
        return 2 * MODES.index("resume") + from_mean
    kept = any((out / "checkpoints").glob("*")) or (out / "trajectory.h5").exists()
    if kept and not config.overwrite:
        raise ConfigurationError(
            f"{out} holds a run already: add --resume to go on with it, --overwrite to replace it, "
            "or give another --out"
        )
    return 2 * MODES.index("overwrite" if config.overwrite else "new")


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
        raise ConfigurationError(f"nothing to resume in {record.parent}: there is no trajectory.h5")
    try:
        before = Trajectory(segment_paths(record)[-1], segments=False).config_text
    except TrajectoryError as error:
        raise ConfigurationError(f"cannot --resume: {error}") from error
    try:
        but = LENGTH if of_any_length else ()
        was, now = (_flat(dict(load_yaml(essence(t, but)) or {})) for t in (before, text))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigurationError(f"cannot --resume: {record}: its options are none") from error
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


def _is_other(out: Path, world: World) -> bool:
    """Return whether the newest valid checkpoint has other numbers of ranks or workers.

    Raises:
        ConfigurationError: There are some, and all are damaged.
    """
    if last_complete(out) is None:
        return False
    n, rows = _newest_sound(out, lambda folder, n: (n, len(_read(folder, n, 0)["x"])))
    return n * rows != world.size or n != world.n


def _to_the_mean(run: Run, out: Path) -> tuple[int, int, bool]:
    """Put the mean model of the last checkpoint into every row.

    Returns its step t, round s, and whether all rounds so far had length 1.

    The optimiser, the algorithm and what the schedule has observed begin anew. Since another number
    of workers makes other steps of the same data, the run goes on at the same share of its length.
    """
    world, task = run.world, run.task
    nowhere = (0, 0, False)
    start = agree(world, lambda: _load_mean(run, out) if world.rank == 0 else nowhere)
    world.broadcast(task.x)
    if task.buffers.numel():
        world.broadcast(task.buffers)
    t, s, parallel = (of_rank_0(world, int(number)) for number in start)
    return t, s, bool(parallel)


def _load_mean(run: Run, out: Path) -> tuple[int, int, bool]:
    """Load, on rank 0, the mean model into its rows; return step, round, and if all had one step.

    Raises:
        ConfigurationError: All checkpoints are damaged.
    """
    try:
        x, buffers, state = _newest_sound(out, lambda folder, n: _mean(run, folder, n))
        place = {name: int(state["place"][name]) for name in ("t", "s", "parallel")}
        t = round(place["t"] / state["steps"] * run.steps)
        if not 0 <= t <= run.steps:
            raise ValueError(f"step {place['t']} of {state['steps']}")
    except (KeyError, TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"the checkpoints of {out} are not of this model or run ({error}): nothing was loaded"
        ) from error
    run.task.x[:], run.task.buffers[:] = x, buffers
    parallel = bool(place["parallel"])
    return t, t - 1 if parallel else min(place["s"], t - 1), parallel


def _mean(run: Run, folder: Path, n: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Return the mean model and buffers of a checkpoint, and the rest of one of its shards."""
    x, buffers = torch.zeros_like(run.task.x[0]), torch.zeros_like(run.task.buffers[0])
    for r in range(n):  # one at a time: all may not fit
        state = _read(folder, n, r)
        x += state["x"].mean(0).to(x) / n
        buffers += state["buffers"].mean(0).to(x) / n
    return x, buffers, state


def _newest_sound(out: Path, look: Callable[[Path, int], T]) -> T:
    """Return what `look` finds in the newest checkpoint that it can read.

    Raises:
        ConfigurationError: All are damaged.
    """
    for folder, n in all_complete(out):
        try:
            return look(folder, n)
        except shard.DamagedShard as error:
            sys.stderr.write(f"{error}: looking at an older checkpoint\n")
    raise ConfigurationError(
        f"cannot start from the mean: every checkpoint in {out / 'checkpoints'} is damaged"
    )


def _read(folder: Path, n: int, r: int) -> dict[str, Any]:
    """Return the state of rank r of a checkpoint of n ranks."""
    return dict(shard.read(folder / f"rank-{r}-of-{n}.pt"))


def _replace(checkpoints: Checkpoints, place: Place) -> None:
    """Put a new checkpoint where checkpoints are, and those of the other workers beside it."""
    folder, world = checkpoints.folder, checkpoints.world
    new = folder.with_name(NEW)
    if world.rank == 0:
        shutil.rmtree(new, ignore_errors=True)  # of a job that was killed here
    agree(world, lambda: None)
    agree(world, lambda: Checkpoints.in_folder(new, checkpoints).save(place))
    if world.rank == 0:
        old = folder.with_name(OTHERS)
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        new.rename(folder)
    agree(world, lambda: None)  # nobody looks before it is done
