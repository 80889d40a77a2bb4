"""Rows of the table of hangs on real ranks: python hanging_ranks.py WORLD PHASE:ACTION...

Rank 1 does ACTION where the others go on; both the loop and the actions are a user's own. All rows
but the last must end by an exception on every rank, after which the next begins. Also used by ranks
that are threads.
"""

# ruff: noqa: E402 - the path is set before our own modules are imported
from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from hpc_localsgd.environment import garbage

if __name__ == "__main__":
    garbage.leave_at_exit()
with garbage.importing():  # a third of a rank's start
    import torch

from torch import nn
from without_compiler import leave_the_compiler_out

import hpc_localsgd
from hpc_localsgd import every, post_local
from hpc_localsgd.attach import Sync
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import Schedule
from hpc_localsgd.worlds.base import World

BATCHES = 10
AT = 6  # the batch at which rank 1 does something else: in H > 1 in the middle of a round
PHASES: dict[str, tuple[Schedule, int | None]] = {
    "H=1": (post_local(switch=100, every=4), None),
    "H>1": (every(4), None),
    "last": (every(4), BATCHES),
}


def leaves(sync: Sync) -> bool:
    raise SystemExit(0)


def raises(sync: Sync) -> bool:
    raise ZeroDivisionError("a fault of rank 1's own data")


def skips(sync: Sync) -> bool:
    return True


def adds(sync: Sync) -> bool:
    return False  # one batch more, at the end


def evaluates(sync: Sync) -> bool:
    with sync.averaged():
        return False


def saves(sync: Sync) -> bool:
    with sync.averaged() as model:
        torch.save(model.state_dict(), io.BytesIO())
    return False


ACTIONS: dict[str, Callable[[Sync], bool]] = {
    f.__name__: f for f in (leaves, raises, skips, adds, evaluates, saves)
}


def train(world: World | None, phase: str, action: str) -> None:
    """A user's loop, in which rank 1 does something that it should not."""
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule, steps = PHASES[phase]
    sync = hpc_localsgd.attach(model, optimizer, schedule=schedule, world=world, steps=steps)
    odd = sync.world.rank == 1
    for i in range(BATCHES + (odd and action == "adds")):
        if odd and i == AT and ACTIONS[action](sync):
            continue
        optimizer.zero_grad()
        model(torch.ones(3, 4) + i).square().mean().backward()
        optimizer.step()
        sync.step()
    with sync.averaged():
        print("a mean model was shown", flush=True)
    sync.finish()
    print("nothing was noticed", flush=True)


def main(kind: str, *rows: str) -> None:
    torch.set_num_threads(1)
    leave_the_compiler_out()
    world: World | None = None
    if kind == "mpi":
        from hpc_localsgd.worlds.mpi import Mpi

        world = Mpi()
    elif kind == "horovod":  # as scripts that come from Horovod do: it has started MPI then
        import horovod.torch as hvd

        hvd.init()
    for row in rows:
        phase, action = row.split(":")
        try:
            train(world, phase, action)
        except ConfigurationError as error:
            sys.stdout.write(f"{row} ended: {error}\n")  # at once: ranks share a line else
            sys.stdout.flush()
            if row == rows[-1]:
                raise


if __name__ == "__main__":
    main(*sys.argv[1:])
