"""Several runs in one launch, one after another: `several_runs.py FILE...`.

Each file holds the options of one run, a line each. It does what `python -m hpc_localsgd.train`
does, without starting MPI, Horovod and torch anew for every run.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from hpc_localsgd.environment import garbage

garbage.leave_at_exit()
with garbage.importing():  # a third of a rank's start
    from hpc_localsgd.commands.assembly.worlds import make_world
    from hpc_localsgd.commands.configuration.config import parse
    from hpc_localsgd.commands.smoke import smaller
    from hpc_localsgd.commands.train import _train
    from hpc_localsgd.engine.launch import detect
    from hpc_localsgd.environment.cores import share_cores
    from hpc_localsgd.worlds.base import World

share_cores(os.environ)
launch = detect(os.environ)
worlds: dict[tuple[str, int | None], World] = {}  # by kind and number of workers
statuses = []
for file in sys.argv[1:]:
    print(f"{file}:", file=sys.stderr)  # so that one that fails is named
    resolved = parse(Path(file).read_text().splitlines())
    if resolved.config.smoke:
        resolved = replace(resolved, config=smaller(resolved.config, launch.started))
    config = resolved.config
    kind = (config.world, config.workers)
    if kind not in worlds:
        worlds[kind] = make_world(config, launch)
    statuses.append(_train(resolved, worlds[kind]))
    if worlds[kind].rank == 0:
        print(f"{file}: ended", file=sys.stderr)  # for whoever waits for this one alone
last = {world.rank_group: world for world in reversed(worlds.values())}  # one of those of a library
for world in last.values():
    world.close()
sys.exit(max(statuses))
