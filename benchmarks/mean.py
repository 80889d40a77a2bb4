"""The average of many numbers, as the worlds do it and as the libraries below them do.

    mpirun -np 2 python benchmarks/mean.py WAY [NUMBERS]

is started by `alternatives.py`, with 25 million numbers, and by `sizes.py`.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from side_by_side import Gate

from hpc_localsgd.engine.discovery import WORLDS
from hpc_localsgd.worlds.base import World

P = 25_000_000
Average = Callable[[], Any]
Way = Callable[[torch.Tensor], Average]


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


def joined(kind: str) -> World:
    """Join the ranks that were started in a world, one worker each: mpi, horovod or torch."""
    if kind == "torch":
        from loops import start_gloo

        start_gloo()
    return WORLDS[kind](None, torch.device("cpu"))


def by_world(kind: str, x: torch.Tensor) -> Average:
    """Run `World.mean`."""
    world = joined(kind)
    return lambda: world.mean(x[None])


WAYS: dict[str, Way] = {
    **{f.__name__: f for f in (mpi, horovod, gloo)},
    **{f"world_{kind}": partial(by_world, kind) for kind in ("mpi", "horovod", "torch")},
}


def repeat(way: Way, numbers: int) -> None:
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
