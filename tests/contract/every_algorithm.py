"""Runs every algorithm and variant in some worlds, one after another; started by a launcher.

`python every_algorithm.py K FOLDER PART...`, where a PART is `WORLD-RANKS` or `WORLD-RANKS-all`,
writes what came out on so many ranks to FOLDER/PART.json. Before that it makes
FOLDER/PART.exact, when averages by themselves are exact. Without `all`, only the variants that use
different operations of a world.
"""

# ruff: noqa: E402 - the path is set before our own modules are imported
from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from hpc_localsgd.environment import garbage

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

if __name__ == "__main__":
    garbage.leave_at_exit()
with garbage.importing():  # a third of a rank's start
    import averages
    import numpy as np
    import torch
    from small_runs import go
    from variants import OPERATIONS, VARIANTS, built_once, name, run_of, schedule_for

    from hpc_localsgd.tasks.execution import Execution
    from hpc_localsgd.worlds.base import World
    from hpc_localsgd.worlds.horovod import Horovod
    from hpc_localsgd.worlds.mpi import Mpi
    from hpc_localsgd.worlds.torch import Torch, among

H, STEPS = 2, 7  # parallel rounds, two of local steps and a shorter one


def results(
    world: World, variants: list[Any], replicas: str = "loop"
) -> dict[str, dict[str, object]]:
    """Per algorithm: the mean model at the end and the payload of every worker.

    On ranks, workers are taken one after another; in one process, as the machine finds faster.
    """
    found = {}
    for algorithm in variants:
        how = Execution(replicas=replicas)
        options = {"H": schedule_for(algorithm, H), "steps": STEPS, "execution": how}
        run = run_of(algorithm, spec=built_once(), world=world, **options)
        p, memory = go(run)
        mean = algorithm.readout(p.x, p.state, world)
        payload = [row["payload_bytes"] for row in memory.rounds]
        found[name(algorithm)] = {
            "mean": mean.tolist(),
            "payload": np.array(payload).tolist(),
            "rounds": len(memory.rounds),
        }
    return found


@cache
def of_all(kind: str) -> World:
    """All ranks of this launch."""
    made: World = {"horovod": Horovod, "mpi": Mpi, "torch": Torch}[kind]()
    return made


def of_some(n: int, kind: str) -> World | None:
    """All ranks of this launch, or n of them, without the first; None on the others."""
    everybody = of_all(kind)
    if n == everybody.n:
        return everybody
    ranks = range(1, 1 + n)  # not from 0 on: blocks of ranks are process sets of Horovod's, too
    mine = everybody.rank in ranks
    if kind == "mpi":
        from mpi4py import MPI

        comm = MPI.COMM_WORLD.Split(color=mine)
        return Mpi(comm=comm) if mine else None
    if kind == "horovod":
        import horovod.torch as hvd

        made = hvd.add_process_set(ranks)  # by all ranks together
        return Horovod(process_set=made) if mine else None
    return among(ranks, everybody.device) if mine else None


def run_part(part: str, world: World, K: int, folder: Path) -> None:
    """Check the averages, run the algorithms, and write what came out."""
    print(f"{part}:", file=sys.stderr)  # so that one that fails is named
    averages.check(world)
    (folder / f"{part}.exact").touch()
    world.place_workers(K)
    found = results(world, VARIANTS if part.endswith("-all") else OPERATIONS)
    if world.rank == 0:
        written = folder / f"{part}.part"
        written.write_text(json.dumps(found))
        written.rename(folder / f"{part}.json")  # whole, for whoever waits for it


def main() -> None:
    """Run the parts, one after another."""
    K, folder, parts = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(1)
    words = {part: part.split("-") for part in parts}
    joined = {part: of_some(int(n), kind) for part, (kind, n, *_) in words.items()}
    worlds = {part: world for part, world in joined.items() if world is not None}
    for part, world in worlds.items():
        run_part(part, world, K, folder)
    # Torch's own comes first: in it the ranks that are in no small part sleep until the end.
    for world in reversed(worlds.values()):
        world.close()


if __name__ == "__main__":
    main()
