"""Runs every algorithm and variant in one world and writes what came out; started by a launcher.

python every_algorithm.py WORLD K OUT.json
"""

# ruff: noqa: E402 - the path is set before our own modules are imported
from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import numpy as np
import torch
from small_runs import go
from variants import VARIANTS, name, run_of

from hpc_localsgd.environment import garbage
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.horovod import Horovod
from hpc_localsgd.worlds.mpi import Mpi
from hpc_localsgd.worlds.simulated import Simulated
from hpc_localsgd.worlds.torch import Torch

WORLDS = {"simulated": Simulated, "horovod": Horovod, "mpi": Mpi, "torch": Torch}


def results(world: World) -> dict[str, dict[str, object]]:
    """Per algorithm: the mean model at the end and the payload of every worker."""
    found = {}
    for algorithm in VARIANTS:
        run = run_of(algorithm, steps=12, world=world)
        p, memory = go(run)
        mean = algorithm.readout(p.x, p.state, world)
        payload = [row["payload_bytes"] for row in memory.rounds]
        found[name(algorithm)] = {
            "mean": mean.tolist(),
            "payload": np.array(payload).tolist(),
            "rounds": len(memory.rounds),
        }
    return found


def main() -> None:
    """Run and write, on rank 0."""
    kind, K, out = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    garbage.leave_at_exit()
    world = WORLDS[kind](K)
    found = results(world)
    if world.rank == 0:
        out.write_text(json.dumps(found))
    world.close()


if __name__ == "__main__":
    main()
