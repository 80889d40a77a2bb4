"""Every worker's own parameters of another run, for `--init-from`: of a snapshot or checkpoint.

The shards of a checkpoint are of ranks, and their rows of workers: a run of the same K takes its
workers' rows on however many ranks it has.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpc_localsgd.engine.position import Run
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.listing import all_complete, shard_name
from hpc_localsgd.run.checkpoint.vetting import optimizer_differs
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.worlds.placement import Placement

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows

EACH = {
    "workers": "each worker's own parameters",
    "optimizer": "each worker's own parameters and optimiser state",
}


def put_workers(record: Trajectory, step: int | None, what: str, run: Run) -> int:
    """Put every worker's own parameters into the rows of this rank; return their step.

    Args:
        record: Of the other run.
        step: Which; None for its last checkpoint.
        what: "workers", or "optimizer" for its state too, which checkpoints alone have.
        run: Where they go.

    Raises:
        ConfigurationError: There are none, or of other workers, another model or optimiser.
    """
    if step is not None and what == "workers" and _keeps_workers(record, step):
        kept = record.snapshot(step, workers=True).workers
        assert kept is not None
        _check_count(record, len(kept), what, run)
        _take(
            record, torch.from_numpy(kept[list(run.world.local_workers)]), run.task.x, "parameters"
        )
        return step
    folder, n = _checkpoint(record, step)
    first = _read(folder, n, 0)
    then = Placement(int(first.get("workers", n * len(first["x"]))), n)
    _check_count(record, then.K, what, run)
    of = [then.rank_of(k) for k in run.world.local_workers]
    shards = {r: _read(folder, n, r) for r in set(of)}
    places = zip(run.world.local_workers, of, strict=True)
    mine = [(shards[r], k - int(then.firsts[r])) for k, r in places]
    _take(record, _rows(mine, "x"), run.task.x, "parameters")
    _take(record, _rows(mine, "buffers"), run.task.buffers, "buffers")
    if what == "optimizer":
        _take_optimizer(record, [(state["optimizer"], row) for state, row in mine], run)
    return int(mine[0][0]["place"]["t"])


def _keeps_workers(record: Trajectory, step: int) -> bool:
    has = bool(record.config.get("snapshot_workers", False))
    return has and bool(np.isin(step, record.snapshot_steps))


def _checkpoint(record: Trajectory, step: int | None) -> tuple[Path, int]:
    """Return the checkpoint of a step, or the last one, and its number of ranks."""
    there = []
    for folder, n in all_complete(record.path.parent):
        t = int(_read(folder, n, 0)["place"]["t"])
        if step in (None, t):
            return folder, n
        there.append(t)
    which = "the workers' own parameters are in checkpoints and in snapshots of --snapshot-workers"
    steps = f"checkpoints are at {', '.join(map(str, sorted(there)))}" if there else "there is none"
    at = "" if step is None else f" at step {step}"
    raise ConfigurationError(f"{record.path.parent} has none of its workers{at}: {which}; {steps}")


def _read(folder: Path, n: int, r: int) -> dict[str, Any]:
    try:
        return dict(shard.read(folder / shard_name(r, n)))
    except (shard.DamagedShard, OSError) as error:
        raise ConfigurationError(f"--init-from: {error}") from error


def _check_count(record: Trajectory, K: int, what: str, run: Run) -> None:
    if run.world.K != K:
        raise ConfigurationError(
            f"--init-with {what}: {record.path.parent} has {K} workers and this run "
            f"{run.world.K}: start as many, or type --init-with mean"
        )


def _rows(mine: list[tuple[dict[str, Any], int]], name: str) -> Rows:
    parts = [state.get(name) for state, _ in mine]
    if not all(isinstance(part, torch.Tensor) and part.ndim == 2 for part in parts):
        raise ConfigurationError(f"--init-from: a checkpoint without {name}")
    return torch.stack([state[name][row] for state, row in mine])


def _take(record: Trajectory, found: Rows, into: Rows, name: str) -> None:
    if found.shape != into.shape:
        raise ConfigurationError(
            f"--init-from: the model of {record.path.parent} has {found.shape[-1]:,} {name}, and "
            f"that of this run {into.shape[-1]:,}: give it the same --task.model and sizes"
        )
    into.copy_(found)


def _take_optimizer(record: Trajectory, mine: list[tuple[dict[str, Any], int]], run: Run) -> None:
    """Load the optimiser's state, put together from the rows of each worker.

    Hyper-parameters are those of this run.

    Raises:
        ConfigurationError: It is of another kind of optimiser, or there is none.
    """
    own = run.optimizer.state_dict()
    try:
        first = mine[0][0]["state"]
        joined = {
            i: {name: _joined([(s["state"][i][name], row) for s, row in mine]) for name in first[i]}
            for i in first
        }
    except (KeyError, TypeError, IndexError, RuntimeError) as error:
        raise ConfigurationError(f"--init-from: no state of an optimiser: {error}") from error
    saved = {"state": joined, "param_groups": own["param_groups"]}
    why = optimizer_differs(saved, run) if joined else "it keeps no state"
    if why:
        raise ConfigurationError(
            f"--init-with optimizer: that of {record.path.parent} is another: {why}; type "
            "--init-with workers to begin with a fresh one"
        )
    run.optimizer.load_state_dict(saved)


def _joined(parts: list[tuple[Any, int]]) -> Any:
    """Return the rows of a tensor that has one for each worker; a count of steps as it is."""
    value, _ = parts[0]
    if isinstance(value, torch.Tensor) and value.ndim == 2:
        return torch.stack([tensor[row] for tensor, row in parts])
    return value
