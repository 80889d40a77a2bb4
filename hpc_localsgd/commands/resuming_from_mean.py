"""Start from the mean model of a checkpoint that another number of workers left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from hpc_localsgd.engine.agreement import agree, of_rank_0
from hpc_localsgd.engine.position import Run
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.folder import Checkpoints
from hpc_localsgd.run.checkpoint.listing import all_complete, last_complete, shard_name
from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint
from hpc_localsgd.run.stderr import say

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

NEW, OTHERS = "checkpoints-new", "checkpoints-of-other-workers"
T = TypeVar("T")


def is_other(out: Path, world: World) -> bool:
    """Return whether the newest valid checkpoint is of another number of workers.

    Raises:
        ConfigurationError: There are some, and all are damaged.
    """
    if last_complete(out) is None:
        return False
    return _newest_sound(out, lambda folder, n: _workers(_read(folder, n, 0), n)) != world.K


def _workers(state: dict[str, Any], n: int) -> int:
    """Return K of a shard of n ranks; where it does not say it, all have as many."""
    return int(state.get("workers", n * len(state["x"])))


def to_the_mean(run: Run, out: Path) -> tuple[int, int, bool]:
    """Put the mean model of the last checkpoint into every row.

    Returns its step t, round s, and whether all rounds so far had length 1.

    Optimiser, algorithm and what the schedule has observed start over. Since another number of
    workers makes other steps of the same data, the run continues at the same share of its length.
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
        x += state["x"].sum(0).to(x) / _workers(state, n)
        buffers += state["buffers"].sum(0).to(x) / _workers(state, n)
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
            say(f"{error}: trying an older checkpoint")
    raise ConfigurationError(
        f"cannot start from the mean: every checkpoint in {out / 'checkpoints'} is damaged"
    )


def _read(folder: Path, n: int, r: int) -> dict[str, Any]:
    """Return the state of rank r of a checkpoint of n ranks."""
    return dict(shard.read(folder / shard_name(r, n)))


def replace_checkpoints(checkpoints: Checkpoints, place: RankCheckpoint) -> None:
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
