"""Averages in place, in parts, and several of one length under way, on real ranks."""

from __future__ import annotations

from unittest.mock import patch

import torch

from hpc_localsgd.worlds import horovod
from hpc_localsgd.worlds.base import World

P = 3_000_001  # float32: more than two of the parts that MPI averages at a time, and a rest


def check(world: World) -> None:
    """Compare averages with what they must be; every number is exact in float32.

    Args:
        world: Of one worker a rank.
    """
    mean = (world.n - 1) / 2
    ramp = torch.arange(P) % 1024
    x = (ramp + world.rank)[None].float()
    at = x.data_ptr()
    assert torch.equal(world.mean(x)[0], ramp + mean) and x.data_ptr() == at

    rows = [torch.full((1, 1000), float(world.rank + i)) for i in range(3)]
    begun = [world.begin_mean(row, keep=False) for row in rows]  # all of one length
    for i, (row, pending) in enumerate(zip(rows, begun, strict=True)):
        assert (pending.wait() == mean + i).all() and pending.wait().data_ptr() == row.data_ptr()

    told = ramp[None].float() if world.rank == 0 else torch.zeros(1, P)
    with patch.object(horovod, "BROADCAST_AT_MOST", 1_000_000):  # as if MPI could not count further
        assert torch.equal(world.broadcast(told)[0], ramp)

    kept = torch.full((1, 1000), float(world.rank))
    assert (world.begin_mean(kept).wait() == mean).all() and (kept == world.rank).all()
    assert (world.begin_mean(kept, keep=False).wait() == mean).all()  # the name is free again
