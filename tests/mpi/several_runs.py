"""Several runs in one launch, one after another in the same world: `several_runs.py FILE...`.

Each file holds the options of one run, a line each. It does what `python -m hpc_localsgd.train`
does, without starting MPI, Horovod and torch anew for every run.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from hpc_localsgd.assemble import make_world
from hpc_localsgd.config import parse
from hpc_localsgd.environment.cores import share_cores
from hpc_localsgd.environment.launch import detect
from hpc_localsgd.smoke import smaller
from hpc_localsgd.train import _train

share_cores(os.environ)
launch = detect(os.environ)
runs = [parse(Path(file).read_text().splitlines()) for file in sys.argv[1:]]
world = make_world(runs[0].config, launch)
statuses = []
for file, run in zip(sys.argv[1:], runs, strict=True):
    print(f"{file}:", file=sys.stderr)  # so that one that fails is named
    if run.config.smoke:
        run = replace(run, config=smaller(run.config, world.n))
    statuses.append(_train(run, world))
world.close()
sys.exit(max(statuses))
