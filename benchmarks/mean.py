"""The average of many numbers, as the worlds do it and as the libraries below them do.

    mpirun -np 2 python benchmarks/mean.py WAY [NUMBERS]

is started by `alternatives.py`, with 25 million numbers, and by `sizes.py`.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import Any

import torch
from side_by_side import Gate

P = 25_000_000
Average = Callable[[], Any]


def copy(x: torch.Tensor) -> Average:
    """Copy the numbers once, as all ranks do at a time: what the memory allows."""
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


def mpi(x: torch.Tensor) -> Average:
    """Bare MPI_Allreduce in place: the sum, not divided."""
    from mpi4py import MPI

    buffer = x.numpy()
    return lambda: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, buffer)


def horovod(x: torch.Tensor) -> Average:
    """Run Horovod's own flat all-reduce."""
    import horovod.torch as hvd

    hvd.init()
    return lambda: hvd.allreduce_(x, op=hvd.Average, name="x")


def gloo(x: torch.Tensor) -> Average:
    """Run torch.distributed's all_reduce over Gloo: the sum, not divided."""
    import torch.distributed as dist
    from loops import start_gloo

    start_gloo()
    return lambda: dist.all_reduce(x)


def world_horovod(x: torch.Tensor) -> Average:
    """Run `Horovod().mean`."""
    from hpc_localsgd.worlds.horovod import Horovod

    world = Horovod()
    return lambda: world.mean(x[None])


def world_mpi(x: torch.Tensor) -> Average:
    """Run `Mpi().mean`."""
    from hpc_localsgd.worlds.mpi import Mpi

    world = Mpi()
    return lambda: world.mean(x[None])


def world_torch(x: torch.Tensor) -> Average:
    """Run `Torch().mean`."""
    from loops import start_gloo

    from hpc_localsgd.worlds.torch import Torch

    start_gloo()
    world = Torch()
    return lambda: world.mean(x[None])


WAYS = {f.__name__: f for f in (mpi, horovod, gloo, world_horovod, world_mpi, world_torch)}


def repeat(way: Callable[[torch.Tensor], Average], numbers: int) -> None:
    """Exchange again and again; at the end tell how far the memory grew, in MB."""
    x = torch.ones(numbers)
    exchange = way(x)
    small = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gate = Gate()
    while gate.step():
        exchange()
        x.fill_(1.0)
    gate.tell((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - small) / 1024)


if __name__ == "__main__":
    repeat((WAYS | {"copy": copy})[sys.argv[1]], int(sys.argv[2]) if sys.argv[2:] else P)
