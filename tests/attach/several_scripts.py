"""Several scripts in one launch: several_scripts.py SCRIPT [WORD...] + SCRIPT [WORD...] ...

They share Python, torch and the ranks, which start only once. What the first one begins,
torch.distributed or Horovod, is there for those behind it and ends with the process. Each line that
a script prints has its name in front.
"""

from __future__ import annotations

import io
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hpc_localsgd.environment import garbage

if __name__ == "__main__":
    garbage.leave_at_exit()
with garbage.importing():  # a third of a rank's start
    import torch.distributed as dist

_begin = dist.init_process_group


def begin_once(*given: Any, **named: Any) -> None:
    """Begin torch.distributed, unless a script before has."""
    if not dist.is_initialized():
        _begin(*given, **named)


def run(script: str, *words: str) -> None:
    """Run a script as Python does that is given it, and print what it printed."""
    said = io.StringIO()
    place = [str(Path(script).parent), *sys.path]
    try:
        with (
            redirect_stdout(said),
            patch.object(sys, "argv", [script, *words]),
            patch.object(sys, "path", place),
            patch.object(dist, "init_process_group", begin_once),
            patch.object(dist, "destroy_process_group"),
        ):
            runpy.run_path(script, run_name="__main__")
    finally:
        for line in said.getvalue().splitlines():
            print(f"{Path(script).name}: {line}", flush=True)


def main(words: list[str]) -> None:
    """Run each of the scripts that are named between the +."""
    while words:
        end = words.index("+") if "+" in words else len(words)
        run(*words[:end])
        words = words[end + 1 :]


if __name__ == "__main__":
    main(sys.argv[1:])
