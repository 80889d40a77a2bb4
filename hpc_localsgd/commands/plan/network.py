"""The network of a plan: one by name, or the one this launch runs on, measured."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hpc_localsgd.commands.assembly.worlds import make_world
from hpc_localsgd.cost.cost_model import (
    NETWORKS,
    Network,
    allreduce_messages,
    allreduce_wire_bytes,
)
from hpc_localsgd.cost.fitting import fit_network
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.commands.configuration.config import Config
    from hpc_localsgd.engine.launch import Launch
    from hpc_localsgd.worlds.base import World

MEASURED = "measured"
SIZES_BYTES = (4_000, 64_000, 512_000, 4_000_000, 32_000_000)
REPEATS, WARM_UP = 7, 2


def chosen(config: Config, model_bytes: int, launch: Launch) -> Network:
    """Return the network the options name; `measured` is a collective of all ranks.

    Raises:
        ConfigurationError: Unknown name, or nothing to measure because one process was started.
    """
    if config.fabric != MEASURED:
        return network(config.fabric)
    if launch.started == 1:
        raise ConfigurationError(
            "--fabric measured measures the ranks of a launch, and this process is alone: put "
            "`mpirun -np 2`, `horovodrun -np 4` or `srun` in front, as for training, "
            f"or name one of {', '.join(NETWORKS)}"
        )
    world = make_world(replace(config, fabric=next(iter(NETWORKS))), launch)
    try:
        return measure(world, [size for size in SIZES_BYTES if size <= max(model_bytes, 64_000)])
    finally:
        world.close()


def measure(world: World, sizes_bytes: list[int]) -> Network:
    """Fit the alpha-beta model to this world's averages. A collective; equal on every rank."""
    with world.ledger.unbilled():
        seconds = [_seconds_of_mean(world, size) for size in sizes_bytes]
    seconds = [float(s) for s in world.gather(_row(seconds, world)).mean(0)]
    wire = [allreduce_wire_bytes(world.n, size) for size in sizes_bytes]
    return fit_network(wire, seconds, messages=allreduce_messages(world.n), name=MEASURED)


def _seconds_of_mean(world: World, nbytes: int) -> float:
    """Return the median seconds of one average."""
    x = torch.zeros(world.R, nbytes // 4, device=world.device)
    took = []
    for _ in range(WARM_UP + REPEATS):
        _finish(world)
        begin = time.perf_counter()
        world.mean(x)
        _finish(world)
        took.append(time.perf_counter() - begin)
    return statistics.median(took[WARM_UP:])


def _finish(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)


def _row(values: list[float], world: World) -> np.ndarray:
    return np.tile(np.array(values), (world.R, 1))
