"""Where each rank is, then runs one after another: `placed_runs.py FOLDER [doctor] FILE...`.

Each file holds the options of one run, a line each; the first names the world. The doctor looks
before them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hpc_localsgd.environment import garbage

garbage.leave_at_exit()
with garbage.importing():  # a third of a rank's start
    from placed import note

    from hpc_localsgd.commands import doctor
    from hpc_localsgd.commands.assembly.worlds import make_world
    from hpc_localsgd.commands.configuration.config import parse
    from hpc_localsgd.commands.train import _train
    from hpc_localsgd.engine.launch import detect
    from hpc_localsgd.environment.cores import share_cores
    from hpc_localsgd.errors import ConfigurationError
    from hpc_localsgd.worlds.base import World


def workers_per_host(world: World) -> int | str:
    """What blocks of hierarchical averages are made of, or why there is no such number."""
    try:
        return world.workers_per_host()
    except ConfigurationError as error:
        return str(error)


share_cores(os.environ)
folder, *files = sys.argv[1:]
examined = 0
if files[0] == "doctor":
    del files[0]
    examined = doctor.main([])
runs = [parse(Path(file).read_text().splitlines()) for file in files]
made = make_world(runs[0].config, detect(os.environ))
note(Path(folder), joined=made.rank, world=repr(made), per_host=workers_per_host(made))
statuses = [_train(run, made) for run in runs]
made.close()
sys.exit(max(examined, *statuses))
