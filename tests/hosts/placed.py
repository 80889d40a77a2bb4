"""Where a rank believes to be, by what its launcher left: `placed.py FOLDER`. Loads no library."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from hpc_localsgd.engine.launch import detect
from hpc_localsgd.environment.allocation import of_this_process


def note(folder: Path, **more: object) -> None:
    """Write it to a file of this rank's."""
    launch = detect(os.environ)
    place = {
        "host": socket.gethostname(),
        "rank": launch.rank,
        "size": launch.size,
        "local": launch.local_rank,
        "allocated": of_this_process(),
    }
    (folder / f"place-{launch.rank}").write_text(json.dumps(place | more))


if __name__ == "__main__":
    note(Path(sys.argv[1]))
