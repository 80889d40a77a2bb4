"""The loop: rounds of local steps, each ended by an exchange of parameters.

    while t < steps:
        H = schedule(t, rate(t))                        # a round begins
        for H steps: x_k <- x_k - rate(t) grad_k(x_k)   # each worker by itself; for H = 1 averaged
        x <- algorithm.on_sync(x)                       # the exchange that ends the round

What is exchanged is the algorithm's, when the schedule's, how the world's, and what is measured the
recorder's: none of it is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hpc_localsgd.engine.position import Position as Position
from hpc_localsgd.engine.position import Run as Run

if TYPE_CHECKING:
    from hpc_localsgd.run.recorder import Recorder


def train(
    run: Run, p: Position, record: Recorder, keep: Callable[[Position], None] = lambda p: None
) -> Position:
    """Train from p to the end of the run: rounds of local steps, each ended by an exchange.

    Args:
        run: Its objects.
        p: Where it is.
        record: Is shown everything, and changes nothing.
        keep: Called between two steps: may copy or write the position, or end the run by raising.
    """
    task, algorithm, optimizer, world = run.task, run.algorithm, run.optimizer, run.world
    while p.t < run.steps:
        if p.due:
            p = p.next_round(run.round_length(p))
        now = p.now(run, p.t)
        batch = task.batch(world.local_workers, p.t)
        begin = algorithm.in_backward(p.state, world, now)
        if begin is None:
            loss, g = task.loss_and_grad(p.x, batch)
            g, p.state = algorithm.on_gradient(g, p.state, world, now)
        else:
            loss, g = task.loss_and_mean_grad(p.x, batch, begin)
        optimizer.step(g, now.lr)
        p.t += 1
        record.after_step(loss)
        if p.t < p.end:
            p.take(*algorithm.on_step(p.x, p.state, world, now))
        else:
            record.before_sync(p, now)
            before = p.before_exchange(run)
            p.take(*algorithm.on_sync(p.x, p.state, world, now))
            p.observe(run, before, loss)
            optimizer.on_sync(world, now)
            run.batchnorm.on_sync(task, world)
            record.after_sync(p, now)
        record.measure(p)
        keep(p)
    return p
