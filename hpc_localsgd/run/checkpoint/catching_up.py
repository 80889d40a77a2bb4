"""Workers of one process that had taken unequal numbers of local steps when they were saved.

In a long round each rank saves by its own clock. Where its workers lie on other ranks afterwards,
those that are behind take the steps that they lack: between two exchanges no other rank is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from hpc_localsgd.run.checkpoint.resharding import TAKEN

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Position, Run
    from hpc_localsgd.run.checkpoint.rank_checkpoint import RankCheckpoint


def catch_up(run: Run, p: Position, place: RankCheckpoint) -> None:
    """Bring all workers of this rank to the step of the foremost. No exchange.

    Args:
        run: Restored to the place.
        p: Its position, at the step of the foremost.
        place: Where they are; the losses of the steps are added to what it has recorded.
    """
    taken = torch.tensor(place.state.get(TAKEN, [p.t]))
    end = p.t
    for t in range(int(taken.min()), end):
        ahead = taken > t
        kept = [
            rows[ahead.to(rows.device)].clone() for rows in _rows(run, p, run.task.state_dict())
        ]
        loss = _step(run, p, t)
        task = run.task.state_dict()
        for rows, before in zip(_rows(run, p, task), kept, strict=True):
            rows[ahead.to(rows.device)] = before
        run.task.load_state_dict(task)  # parts of it may be copies
        if (summed := place.state["record"].get("loss")) is not None:
            summed += loss.masked_fill(ahead.to(loss.device), 0.0).to(summed)
    p.t = end


def _step(run: Run, p: Position, t: int) -> torch.Tensor:
    """Take local step t of a round with all rows; return their losses [R]."""
    p.t, now, world = t, p.now(run, t), run.world
    loss, g = run.task.loss_and_grad(p.x, run.task.batch(world.local_workers, t))
    g, p.state = run.algorithm.on_gradient(g, p.state, world, now)
    run.optimizer.step(g, now.lr)
    p.t += 1
    p.take(*run.algorithm.on_step(p.x, p.state, world, now))
    return loss.clone()


def _rows(run: Run, p: Position, task: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return everything that has a row for each worker, the state of the task with it."""
    R = run.world.R
    own = [rows for rows in task.values() if rows.ndim and len(rows) == R]
    memory = [rows for rows in _tensors(p.state) if rows.ndim > 1]
    return [p.x, run.task.buffers, *own, *run.optimizer.row_state(), *memory]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
