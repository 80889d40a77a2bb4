"""A check, before the first exchange of numbers, that all ranks run the same code and version.

Another copy of the package on one host would train with other code there, unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

SAID_BYTES = 600  # of a rank; a fixed number, as other versions must be able to read it
PACKAGE = Path(__file__).parent.parent
NAMES = {"package": "the code of hpc_localsgd", "mpi": "MPI"}


def source_digest(folder: Path) -> str:
    """Return 12 digits of SHA-256 of the names and texts of a package's Python files."""
    found = hashlib.sha256()
    for inside, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(name for name in files if name.endswith(".py")):
            found.update(f"{os.path.relpath(inside, folder)}/{name}\0".encode())
            with open(os.path.join(inside, name), "rb") as file:
                found.update(file.read())
    return found.hexdigest()[:12]


@cache
def package_digest() -> str:
    """Return the digest of this package, as it is when it is first asked for: each attach asks."""
    return source_digest(PACKAGE)


def software() -> dict[str, str]:
    """Return the digest of the package and the versions of Python and its libraries."""
    found = {"package": package_digest(), "python": platform.python_version()}
    for name in ("torch", "horovod", "mpi4py", "numpy"):
        found[name] = str(getattr(sys.modules.get(name), "__version__", "-"))  # if it is loaded
    mpi = sys.modules.get("mpi4py.MPI")
    found["mpi"] = mpi.Get_library_version().split(",")[0][:60].rstrip("\0 \n") if mpi else "-"
    return found | {"host": socket.gethostname()[:64], "where": str(PACKAGE)}


def said() -> bytes:
    """Return `software` in SAID_BYTES; of a long path the end, as far as it fits."""
    found = software()
    while len(raw := json.dumps(found).encode()) > SAID_BYTES and (where := found["where"]):
        found["where"] = where[len(where) // 2 + 1 :]
    return raw.ljust(SAID_BYTES)


def check_same_software(world: World) -> None:
    """Compare all ranks with rank 0; all ranks together.

    Raises:
        ConfigurationError: One runs something else: names it, its host and the difference; on all
            ranks alike.
    """
    if world.n == 1:
        return
    # Here, as the doctor reads this file where there may be no numpy.
    from hpc_localsgd.worlds.gather_texts import gather_texts

    found = gather_texts(world, said().decode(), SAID_BYTES)
    everyone = [json.loads(found[leader]) for leader in world.placement.leaders]
    first = everyone[0]
    for rank, theirs in enumerate(everyone):
        for name in first:
            if name not in ("where", "host") and theirs.get(name) != first[name]:
                raise ConfigurationError(
                    f"rank {rank} on {theirs['host']} runs other software than rank 0 on "
                    f"{first['host']}: {NAMES.get(name, name)} is {theirs.get(name)} "
                    f"({theirs['where']}), and not {first[name]} ({first['where']}). Start all "
                    "ranks from one environment, or bring that host's copy up to date"
                )
