"""Runs that are stopped, saved, and resumed by other ranks, which are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hpc_localsgd.loop import Position, Run, train
from hpc_localsgd.run.checkpoint import Checkpoints
from hpc_localsgd.run.checkpoint.catching_up import catch_up
from hpc_localsgd.run.checkpoint.vetting import check_place
from hpc_localsgd.run.recorder import Recorder
from hpc_localsgd.worlds.base import World

K, STEPS = 8, 18
MAKING = threading.Lock()  # models begin, and drop out, by random numbers of the whole process
Make = Callable[[World], Run]


class Stopped(Exception):
    """Raised after a given step."""


def made(make: Make, world: World) -> Run:
    """A run, made by one thread at a time, and before any of them trains."""
    with MAKING:
        run = make(world)
    world.gather(np.zeros(world.R))
    return run


def until(run: Run, p: Position, at: int) -> Position:
    """Where a run is after `at` steps."""

    def keep(now: Position) -> None:
        if now.t == at:
            raise Stopped(now)

    try:
        return train(run, p, Recorder(run), keep)
    except Stopped as stopped:
        place: Position = stopped.args[0]
        return place


def resumed(run: Run, checkpoints: Checkpoints) -> Position:
    """A run at its last checkpoint, as `commands/resuming.py` puts it there."""
    place, p = checkpoints.load(), run.beginning()
    check_place(place, run, p)
    with MAKING:  # it has the generator of the process too
        p = place.restore(run, p)
    catch_up(run, p, place)
    p.state = run.algorithm.resume(p.state, run.world)
    return p


def one_at_a_time(run: Run) -> Run:
    """A run whose threads do not draw at the same time from the generator of the process."""
    plain = run.task.loss_and_grad

    def loss_and_grad(x: torch.Tensor, batch: Any) -> Any:
        with MAKING:
            return plain(x, batch)

    run.task.loss_and_grad = loss_and_grad  # type: ignore[method-assign]
    return run
