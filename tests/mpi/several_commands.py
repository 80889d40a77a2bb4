"""Several commands of the package in one launch, one after another: `several_commands.py FILE...`.

Each file holds the words of one, a line each: `sharpness`, the run, its options. How each rank's
has ended is said behind it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpc_localsgd.__main__ import main
from hpc_localsgd.environment import garbage


def done(file: str) -> int:
    status = main(Path(file).read_text().splitlines())
    print(f"{file}: ended with status {status}", file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":  # loader processes import this file
    garbage.leave_at_exit()
    sys.exit(max([done(file) for file in sys.argv[1:]]))
