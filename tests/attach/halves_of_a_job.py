"""Two trainings side by side in one job of four ranks: python halves_of_a_job.py HOW...

found   none: all ranks train together, where attach finds Horovod under the launcher
hvd     Horovod is given a communicator; attach finds the world
set     a Horovod process set, given to attach by hand
mpi     an mpi4py communicator, given by hand
"""

from __future__ import annotations

import sys

from hpc_localsgd.environment import garbage

if __name__ == "__main__":
    garbage.leave_at_exit()
with garbage.importing():  # a third of a rank's start
    import torch

from mpi4py import MPI
from without_compiler import leave_the_compiler_out

import hpc_localsgd
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.horovod import Horovod
from hpc_localsgd.worlds.mpi import Mpi


def world_of(how: str, half: int) -> World | None:
    everybody = MPI.COMM_WORLD
    if how == "found":
        return None
    if how == "mpi":
        return Mpi(comm=everybody.Split(color=half, key=everybody.rank))
    import horovod.torch as hvd

    if how == "hvd":
        hvd.init(comm=everybody.Split(color=half, key=everybody.rank))
        return None
    sets = [hvd.ProcessSet([0, 1]), hvd.ProcessSet([2, 3])]
    hvd.init(process_sets=sets)
    return Horovod(process_set=sets[half])


def main(how: str) -> None:
    rank = MPI.COMM_WORLD.rank
    half = rank // 2
    torch.manual_seed(half)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sync = hpc_localsgd.attach(
        model, optimizer, schedule=hpc_localsgd.every(2), world=world_of(how, half)
    )
    torch.manual_seed(rank)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 4)).square().mean().backward()
        optimizer.step()
        sync.step()
    sync.finish()
    weight = float(model.weight.detach().sum())
    where = f"rank {sync.world.rank} of {sync.world.K} in {sync.world!r}"
    print(f"{how}: half {half}: {where}, {weight:.9f}", flush=True)
    MPI.COMM_WORLD.Barrier()  # Horovod ends for all its process sets when one process ends
    if how != "mpi":
        import horovod.torch as hvd

        hvd.shutdown()


if __name__ == "__main__":
    leave_the_compiler_out()
    for how in sys.argv[1:]:
        main(how)
