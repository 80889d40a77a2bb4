"""Runs every algorithm and variant in some worlds, one after another; started by a launcher.

`python every_algorithm.py K FOLDER WORLD...` writes what came out to FOLDER/WORLD.json. Before
that it makes FOLDER/WORLD.exact, when averages by themselves are exact.
"""

# ruff: noqa: E402 - the path is set before our own modules are imported
from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

from hpc_localsgd.environment import garbage

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

with garbage.paused():  # a quarter of a rank's start
    import averages
    import numpy as np
    import torch
    from small_runs import go
    from variants import VARIANTS, name, run_of

    from hpc_localsgd.tasks.digits import digits
    from hpc_localsgd.tasks.execution import Execution
    from hpc_localsgd.worlds.base import World
    from hpc_localsgd.worlds.horovod import Horovod
    from hpc_localsgd.worlds.mpi import Mpi
    from hpc_localsgd.worlds.simulated import Simulated
    from hpc_localsgd.worlds.torch import Torch

WORLDS = {"simulated": Simulated, "horovod": Horovod, "mpi": Mpi, "torch": Torch}


class built_once(digits):
    """The digits, whose task all variants train, one after another, each from the same model."""

    build = cache(digits.build)


def results(world: World) -> dict[str, dict[str, object]]:
    """Per algorithm: the mean model at the end and the payload of every worker.

    On ranks, workers one after another; in one process, as the machine finds faster.
    """
    found, how = {}, Execution(replicas="loop" if world.n > 1 else "auto")
    for algorithm in VARIANTS:
        run = run_of(algorithm, spec=built_once(hidden=16), steps=10, world=world, execution=how)
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
    K, folder, kinds = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(1)
    garbage.leave_at_exit()
    worlds = []
    for kind in kinds:
        print(f"{kind}:", file=sys.stderr)  # so that one that fails is named
        averages.check(WORLDS[kind]())
        (folder / f"{kind}.exact").touch()
        worlds.append(WORLDS[kind](K))
        found = results(worlds[-1])
        if worlds[-1].rank == 0:
            part = folder / f"{kind}.part"
            part.write_text(json.dumps(found))
            part.rename(folder / f"{kind}.json")  # whole, for whoever waits for it
    for world in worlds:
        world.close()


if __name__ == "__main__":
    main()
