"""`attach` itself: check, find the world, agree, move the parameters, begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.attach import descriptions
from hpc_localsgd.attach.arguments import algorithm_of, schedule_of
from hpc_localsgd.attach.broadcast import broadcast_model, broadcast_optimizer_state
from hpc_localsgd.attach.buffers import check_patterns
from hpc_localsgd.attach.checks import (
    batchnorm_of,
    check_one_kind,
    check_patience,
    check_schedule,
    check_sharded,
    check_sparse,
    check_types,
    check_whole,
    check_world,
    in_steps,
    on_nan_of,
)
from hpc_localsgd.attach.collectives import Collectives
from hpc_localsgd.attach.context import AttachContext
from hpc_localsgd.attach.descriptions import SAME_OBJECTS, shown
from hpc_localsgd.attach.grid import RankGrid, alone, grid_of
from hpc_localsgd.attach.integrity import check_free
from hpc_localsgd.attach.other_tensors import differ
from hpc_localsgd.attach.running_statistics import Statistics
from hpc_localsgd.attach.shards import gathered, reshard
from hpc_localsgd.attach.storage import Group
from hpc_localsgd.attach.sync import Sync
from hpc_localsgd.attach.trained_parameters import check_fit, grouped, trained
from hpc_localsgd.engine.agreement import agree, check_same
from hpc_localsgd.engine.batchnorm import BatchNorm, Policy
from hpc_localsgd.engine.discovery import SIMULATED, join, kind_of_world
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.engine.non_finite import OnNan
from hpc_localsgd.run.rollcall import PATIENCE_S
from hpc_localsgd.schedules.local_steps import Schedule
from hpc_localsgd.tasks.buckets import BUCKET_BYTES
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.simulated import Simulated
from hpc_localsgd.worlds.version_check import check_same_software


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    algorithm: Algorithm | str | None = None,
    schedule: Schedule | Callable[[int, float], int] | str,
    world: World | None = None,
    mesh: Any = None,
    steps: int | None = None,
    steps_per_epoch: float | None = None,
    batchnorm: Policy | BatchNorm = "reestimate",
    averaged_buffers: Sequence[str] = (),
    broadcast: bool = True,
    broadcast_optimizer: bool = False,
    bucket_bytes: int = BUCKET_BYTES,
    check_rounds: bool = True,
    on_nan: OnNan = "stop",
    patience_s: float = PATIENCE_S,
) -> Sync:
    """Train a model in rounds of local steps, in a loop of your own.

    The optimiser is neither wrapped nor replaced, and the parameters stay the same objects; their
    memory moves once, now. A collective: all ranks call it, after `model.to(device)` and before a
    checkpoint is loaded.

    Args:
        model: Trained by this process alone, on its own share of the data. Not wrapped in
            DistributedDataParallel.
        optimizer: Any of torch.optim. What is exchanged is what it trains.
        algorithm: What is done at the end of a round; LocalSGD() by default. Algorithms and
            schedules at their defaults can be given by their names on the command line.
        schedule: Length of the round that starts at step t, where the learning rate of the
            optimizer's first group is lr.
        world: Who the workers are, one in each process; found automatically by default (see
            `engine/discovery.py`).
        mesh: Instead of a world, for a model that torch shards (`fully_shard`, DTensor): the
            dimension of its DeviceMesh along which it is repeated, `mesh["replicate"]`. A worker is
            then several ranks, and each rank exchanges its shards; see `grid.py`.
        steps: Optimiser steps of the whole run, if known: the last of them ends it.
        steps_per_epoch: To write a schedule in epochs.
        batchnorm: What happens to running statistics; see `batchnorm.py`.
        averaged_buffers: Names of further buffers that are running statistics, with * for any part
            (`*.codebook`). Others are never averaged, see `buffers.py`.
        broadcast: Begin with rank 0's parameters and buffers on all ranks. Without it, ranks may
            begin with parameters of their own where the algorithm allows it (local rounds of
            LocalSGD, gossip), which is looked at in the first step.
        broadcast_optimizer: Begin with rank 0's optimiser state too.
        bucket_bytes: In rounds of one step, how much gradient is averaged at a time during
            backward.
        check_rounds: Compare the ranks' step counts before each exchange of parameters (a few
            bytes), so that ranks out of step end with an error at once. With algorithms that leave
            workers different (gossip, CoCoD) once in 64 steps, since those do not wait for all.
        on_nan: When a rank's numbers are no longer finite: "stop" all ranks with an error that
            names it, looked for in that comparison and once in 64 rounds of one step; or
            "quarantine": it is left out of the exchange and continues from the mean of the others,
            looked for in parameters at every exchange, in gradients where those are averaged,
            which is then done after backward.
        patience_s: For how many seconds a rank may wait in an exchange for others that are busy
            (evaluating, saving), before the job is ended. One that has left, or waits elsewhere,
            is noticed within seconds; see `rollcall`.

    Returns:
        The object to call after every `optimizer.step()`.

    Raises:
        ConfigurationError: A fault of the request, or the ranks' models, optimizers or schedules
            differ; on all ranks alike, before anything is changed.

    Example:
        >>> from hpc_localsgd.schedules.local_steps import post_local
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> sync = attach(model, optimizer, schedule=post_local(switch=100, every=8))
        >>> sync.t
        0
    """
    check_types(model, optimizer)
    check_patience(patience_s)
    algorithm, schedule = algorithm_of(algorithm), schedule_of(schedule)
    check_sharded(model, optimizer, algorithm, world, mesh, broadcast_optimizer)
    how, on_nan = batchnorm_of(batchnorm), on_nan_of(on_nan)
    reshard(gathered(model))
    grid = _grid_of(model, world, mesh)
    everyone = grid.everyone
    collectives = Collectives(everyone, patience_s, grid.alike)
    with collectives.attaching():
        check_same_software(everyone)
        agree(everyone, lambda: check_whole(steps=steps, bucket_bytes=bucket_bytes))
        lengths = agree(everyone, lambda: _in_steps(schedule, steps, steps_per_epoch))
        agree(everyone, lambda: _check_model(model, optimizer, algorithm, averaged_buffers))
        named, frozen = trained(model, optimizer)
        lines = [*map(shown, (algorithm, lengths, steps, how)), f"{bucket_bytes=}"]
        lines += [f"{check_rounds=}", f"on_nan={on_nan}", f"{patience_s=}"]
        lines += [f"averaged_buffers={list(averaged_buffers)}", f"{broadcast=}"]
        lines += [f"{broadcast_optimizer=}", *descriptions.described(model, list(named))]
        _check_alike(grid, optimizer, lines, broadcast, broadcast_optimizer)
        check_sparse(algorithm, optimizer, grid.world, named.values())
        groups = grouped(model, named, grid.shards)
        equal = _start_alike(grid, model, optimizer, groups, broadcast, broadcast_optimizer)
        context = AttachContext(
            model=model,
            optimizer=optimizer,
            algorithm=algorithm,
            schedule=lengths,
            grid=grid,
            collectives=collectives,
            groups=groups,
            frozen=frozen,
            gathered=gathered(model),
            statistics=Statistics(model, grid, how, averaged_buffers),
            steps=steps,
            bucket_bytes=bucket_bytes,
            check_rounds=check_rounds,
            on_nan=on_nan,
        )
        return Sync(context, equal=equal)


def _in_steps(schedule: Schedule, steps: int | None, steps_per_epoch: float | None) -> Schedule:
    """Return the schedule with its durations in steps.

    Raises:
        ConfigurationError: It cannot be followed.
    """
    check_schedule(schedule, steps, steps_per_epoch)
    return in_steps(schedule, steps, steps_per_epoch)


def _check_model(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    algorithm: Algorithm,
    averaged_buffers: Sequence[str],
) -> None:
    """Check what is trained and which of the buffers are averaged.

    Raises:
        ConfigurationError: It cannot be exchanged, or is so already.
    """
    named, _ = trained(model, optimizer)
    check_fit(named)
    check_free([*named.values()])
    check_patterns(model, averaged_buffers)
    check_one_kind(algorithm, named.values())


def _check_alike(
    grid: RankGrid,
    optimizer: torch.optim.Optimizer,
    lines: Sequence[str],
    broadcast: bool,
    broadcast_optimizer: bool,
) -> None:
    """Check that all ranks were given the same, but for what they are to take from rank 0.

    Raises:
        ConfigurationError: They were not; on all ranks alike.
    """
    if broadcast_optimizer:
        check_same(grid.everyone, lines, SAME_OBJECTS)
        return
    check_same(grid.everyone, [*lines, *descriptions.described_options(optimizer)], SAME_OBJECTS)
    if broadcast:  # equal models, whose optimisers would move them apart
        states = descriptions.described_state(optimizer)
        agree(grid.everyone, lambda: check_same(grid.world, states, SAME_OBJECTS))


def _start_alike(
    grid: RankGrid,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Group],
    broadcast: bool,
    broadcast_optimizer: bool,
) -> bool:
    """Copy what all ranks are to take from rank 0; return whether the workers' models are equal."""
    if broadcast_optimizer:
        broadcast_optimizer_state(grid.world, optimizer)
    if broadcast:
        broadcast_model(grid.world, model, groups)
        return True
    mine = any(differ(grid.world, [part for group in groups for part in group.parts]))
    return not grid.everyone.gather(np.array([[mine]])).any()


def _grid_of(model: nn.Module, world: World | None, mesh: Any) -> RankGrid:
    """Return the ranks of a mesh, or of a world in which each worker is one."""
    if mesh is not None:
        return grid_of(model, mesh)
    world = _world_of(model) if world is None else world
    check_world(world)
    return alone(world)


def _world_of(model: nn.Module) -> World:
    """Return the world of this process, with one worker, on the device of the first parameter."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    launch = detect()
    kind = kind_of_world(launch, "give attach world=Simulated(1)")
    return Simulated(1, device) if kind == SIMULATED else join(kind, launch, device)
