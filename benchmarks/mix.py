"""One exchange on a ring, as the worlds do it, and the two messages to neighbours that it needs.

    mpirun --oversubscribe -np 4 python benchmarks/mix.py WAY NUMBERS

is started by `sizes.py`.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from mean import Average, Way, joined, repeat

from hpc_localsgd.topology.static import ring


def neighbours_mpi(x: torch.Tensor) -> Average:
    """Send the numbers to both neighbours by bare MPI and receive theirs; nothing is computed."""
    from mpi4py import MPI

    world, y = MPI.COMM_WORLD, torch.empty(2, len(x))
    rank, n = world.Get_rank(), world.Get_size()
    sides = sorted({(rank - 1) % n, (rank + 1) % n})

    def exchange() -> None:
        waiting = [world.Irecv(y[i].numpy(), side) for i, side in enumerate(sides)]
        waiting += [world.Isend(x.numpy(), side) for side in sides]
        MPI.Request.Waitall(waiting)

    return exchange


def neighbours_gloo(x: torch.Tensor) -> Average:
    """Do the same by torch.distributed over Gloo."""
    import torch.distributed as dist
    from loops import start_gloo

    start_gloo()
    y, rank, n = torch.empty(2, len(x)), dist.get_rank(), dist.get_world_size()
    sides = sorted({(rank - 1) % n, (rank + 1) % n})

    def exchange() -> None:
        waiting = [dist.irecv(y[i], side) for i, side in enumerate(sides)]
        waiting += [dist.isend(x, side) for side in sides]
        for one in waiting:
            one.wait()

    return exchange


def by_world(kind: str, x: torch.Tensor) -> Average:
    """Run `World.mix` on a ring."""
    world = joined(kind)
    W = ring().matrix(world.K)
    return lambda: world.mix(x[None], W)


WAYS: dict[str, Way] = {
    **{f.__name__: f for f in (neighbours_mpi, neighbours_gloo)},
    **{f"world_{kind}": partial(by_world, kind) for kind in ("mpi", "torch")},
}

if __name__ == "__main__":
    repeat(WAYS[sys.argv[1]], int(sys.argv[2]))
