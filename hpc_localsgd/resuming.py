"""How a job begins: a new run, in place of an old one, or going on with it."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hpc_localsgd.agreement import agree, check_same, of_rank_0
from hpc_localsgd.checkpoint.folder import Checkpoints, last_complete, read_all
from hpc_localsgd.checkpoint.place import Place
from hpc_localsgd.checkpoint.shard import DamagedShard
from hpc_localsgd.loop import Position, Run
from hpc_localsgd.trajectory import Trajectory, TrajectoryError, segment_paths
from hpc_localsgd.types import ConfigurationError, Footprint

if TYPE_CHECKING:
    from hpc_localsgd.config import Config
    from hpc_localsgd.worlds.base import World

Mode = Literal["new", "overwrite", "resume"]
MODES: tuple[Mode, ...] = ("new", "overwrite", "resume")


@dataclass(frozen=True)
class Continued:
    """How a job begins, the same on all ranks.

    Attributes:
        mode: With an empty folder, in place of what is there, or going on with it.
        from_mean: Whether going on means from the mean model, with another number of workers.
    """

    mode: Mode
    from_mean: bool = False

    def position(self, run: Run, checkpoints: Checkpoints) -> tuple[Position, Place | None]:
        """Where the run begins, and the place it was kept at. All ranks together.

        Raises:
            ConfigurationError: There is no checkpoint to go on from; on all ranks alike.
        """
        world, out = run.world, checkpoints.folder.parent
        start = agree(world, lambda: _to_the_mean(run, out)) if self.from_mean else (0, -1)
        model = Footprint(run.task.sizes, run.task.x.element_size())
        p = Position(run.task.x, run.algorithm.init(run.task.x, world, model))
        p.t, p.s = start
        p.begin = p.end = p.t
        if self.mode != "resume":
            return p, None
        if self.from_mean:
            _replace(checkpoints, Place.of(run, p, p.t))
        place = checkpoints.load()
        agree(world, lambda: place.restore(run, p))
        check_same(world, f"resumed after the exchange of step {place.after}")
        p.sync = run.algorithm.resume(p.sync, world)
        return p, place


def continued(config: Config, text: str, world: World) -> Continued:
    """What the options and the folder amount to; nothing is changed but an empty folder made.

    Rank 0 looks and decides, and a `STOP` of the job before is forgotten.

    Raises:
        ConfigurationError: --out holds a run and may not be touched, or cannot be gone on with.
    """
    first = world.rank == 0
    code = agree(world, lambda: _decide(config, text, world) if first else 0)
    code = of_rank_0(world, code)
    return Continued(MODES[code // 2], bool(code % 2))


def _decide(config: Config, text: str, world: World) -> int:
    """Rank 0's decision: twice the place in MODES, and one more for from_mean."""
    out = Path(config.out)
    resume = config.resume or config.resume_from_mean
    _check_writable(out)
    if resume and config.overwrite:
        raise ConfigurationError("--resume goes on with a run, --overwrite replaces it: give one")
    (out / "STOP").unlink(missing_ok=True)
    last = last_complete(out)
    if config.resume == "auto" and last is None:
        return 2 * MODES.index(_anew(out))
    if resume:
        check_same_config(out / "trajectory.h5", text, config.resume_from_mean)
        return 2 * MODES.index("resume") + (config.resume_from_mean and _is_other(last, world))
    kept = any((out / "checkpoints").glob("*")) or (out / "trajectory.h5").exists()
    if kept and not config.overwrite:
        raise ConfigurationError(
            f"{out} holds a run already: add --resume to go on with it, --overwrite to replace it, "
            "or give another --out"
        )
    return 2 * MODES.index("overwrite" if config.overwrite else "new")


def _anew(out: Path) -> Mode:
    """Of --resume auto without a checkpoint."""
    if not segment_paths(out) and not any((out / "checkpoints").glob("*")):
        return "new"
    sys.stderr.write(f"{out} has no complete checkpoint: the run starts anew and replaces it\n")
    return "overwrite"


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to --out {out}: {error.strerror}; give another folder"
        ) from error


def check_same_config(record: Path, text: str, other_workers: bool = False) -> None:
    """Whether a run was begun with the options this job was given.

    Args:
        record: Its trajectory.
        text: The options.
        other_workers: Whether the number of workers may differ.

    Raises:
        ConfigurationError: It was not, or there is no such run.
    """
    if not record.exists():
        raise ConfigurationError(f"nothing to resume in {record.parent}: there is no trajectory.h5")
    try:
        before = Trajectory(segment_paths(record)[-1], segments=False).attrs["config"]
    except TrajectoryError as error:
        raise ConfigurationError(f"cannot --resume: {error}") from error
    changed = set(text.splitlines()) ^ set(before.splitlines())
    names = {line.split(":")[0].strip(" -") for line in changed}
    names -= {"workers"} if other_workers else set()
    if names:
        raise ConfigurationError(
            f"--resume needs the options the run began with, and these differ: "
            f"{', '.join(sorted(names))}; use --config {record.parent / 'config.yaml'} --resume"
        )


def _is_other(last: tuple[Path, int] | None, world: World) -> bool:
    """Whether a checkpoint is of another number of ranks or workers than this job."""
    if last is None:
        return False
    folder, n = last
    try:
        return n * len(read_all(folder, n)[0]["x"]) != world.size or n != world.n
    except DamagedShard as error:
        raise ConfigurationError(f"cannot start from the mean: {error}") from error


def _to_the_mean(run: Run, out: Path) -> tuple[int, int]:
    """Put the mean model of the last checkpoint into every row; its step t and round s.

    The optimiser and the algorithm begin anew. Since another number of workers makes other steps of
    the same data, the run goes on at the same share of its length.
    """
    last = last_complete(out)
    assert last is not None  # rank 0 has seen it
    try:
        states: list[dict[str, Any]] = read_all(*last)
    except DamagedShard as error:
        raise ConfigurationError(f"cannot start from the mean: {error}") from error
    run.task.x[:] = torch.cat([state["x"] for state in states]).mean(0)
    if run.task.buffers.numel():
        run.task.buffers[:] = torch.cat([state["buffers"] for state in states]).mean(0)
    place = states[0]["place"]
    t = round(place["t"] / states[0]["steps"] * run.steps)
    parallel = place["end"] == place["s"] + 1  # no local steps so far
    return t, t - 1 if parallel else min(place["s"], t - 2)


def _replace(checkpoints: Checkpoints, place: Place) -> None:
    """Put this place where the checkpoints are, and those of the other workers beside it."""
    folder, world = checkpoints.folder, checkpoints.world
    new = folder.with_name("checkpoints-new")
    agree(world, lambda: Checkpoints.in_folder(new, checkpoints).save(place))
    if world.rank == 0:
        old = folder.with_name("checkpoints-of-other-workers")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        new.rename(folder)
    agree(world, lambda: None)  # nobody looks before it is done
