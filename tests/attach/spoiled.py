"""Gradients that are not finite on some ranks: the trainer's run, and the same through `attach`."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import torch
from small_runs import go, sgd, small_run
from torch import nn

import hpc_localsgd
from hpc_localsgd import post_local
from hpc_localsgd.engine.quarantine import QuarantinedAlgorithm
from hpc_localsgd.loop import Run
from hpc_localsgd.worlds.base import World

NAN = float("nan")
_SEEDED = threading.Lock()  # ranks that are threads share the global random numbers
T = 14
ROUNDS = post_local(switch=4, every=3)
BAD = {(1, 0), (5, 1), (12, 0)}  # (step, worker): in a round of one step, and in two of three


def _options(optimizer: Any, algorithm: Any, K: int) -> dict[str, Any]:
    made = {"K": K, "H": ROUNDS, "steps": T, "optimizer": optimizer}
    return made | ({"algorithm": algorithm} if algorithm else {})


def spoil(g: torch.Tensor, t: int, worker: int, row: int) -> None:
    """Put a NaN where `BAD` says so."""
    if (t, worker) in BAD:
        g[row, 3] = NAN


def in_the_trainer(K: int, optimizer: Any = None, algorithm: Any = None) -> torch.Tensor:
    """The parameters [P] that a simulated run in quarantine ends with."""
    run: Run = small_run(**_options(optimizer or sgd(momentum=0.9), algorithm, K))
    original, steps = run.task.loss_and_grad, iter(range(T))

    def spoiled(x: Any, batch: Any) -> Any:
        loss, g = original(x, batch)
        t = next(steps)
        for worker in range(K):
            spoil(g, t, worker, worker)
        return loss, g

    run.task.loss_and_grad = spoiled  # type: ignore[method-assign]
    run = replace(run, algorithm=QuarantinedAlgorithm(run.algorithm, run.optimizer, run.task))
    return run.algorithm.readout(go(run)[0].x, {}, run.world)


class Flat(nn.Module):
    """The parameters of a task as one vector."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x.clone())


def through_attach(
    world: World, optimizer: Any = None, algorithm: Any = None, **given: Any
) -> torch.Tensor:
    """The parameters [P] of this rank after the same run in a loop of one's own."""
    options = _options(optimizer or sgd(momentum=0.9), algorithm, world.K)
    with _SEEDED:
        task = small_run(**options, world=world).task
    model = Flat(task.x[0])
    made = (optimizer or sgd(momentum=0.9))(model.parameters())
    made.param_groups[0]["lr"] = 0.1
    given = {"on_nan": "quarantine", "schedule": ROUNDS, "steps": T, "world": world} | given
    sync = hpc_localsgd.attach(model, made, algorithm=algorithm, **given)
    for t in range(T):
        made.zero_grad()
        _, g = task.loss_and_grad(model.x.detach()[None], task.batch(world.local_workers, t))
        g = g.clone()
        spoil(g, t, world.rank, 0)
        (model.x * g[0]).sum().backward()
        made.step()
        sync.step()
    return model.x.detach()
