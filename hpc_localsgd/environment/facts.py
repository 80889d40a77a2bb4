"""What one process sees of its machine and its launch: the raw material of the doctor.

Collecting never raises: what is missing or broken is a fact too, and the checks judge it.
"""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_localsgd.engine import reachability
from hpc_localsgd.engine.finding import Finding
from hpc_localsgd.engine.launch import Launch, detect
from hpc_localsgd.environment import allocation, gpu
from hpc_localsgd.worlds.version_check import package_digest

ENV_SHOWN = (
    "OMP_NUM_THREADS",
    "HOROVOD_CYCLE_TIME",
    "OMPI_MCA_mpi_yield_when_idle",
    "CUDA_VISIBLE_DEVICES",
    "SLURM_JOB_ID",
    "SLURM_NNODES",
    "SLURM_NTASKS",
    "SLURM_STEP_ID",
    "SLURM_GPUS_ON_NODE",
)


@dataclass(frozen=True)
class Facts:
    """One process, as it sees itself. A version that is None means: not installed.

    Attributes:
        cpus: Numbers of the cores it may use: launchers bind each rank to cores of its own.
        network: What its host's names and interfaces look like, judged before anything connects.
        allocated: The hosts the job was given, as far as the launcher or Slurm says.
        started: How many ranks the communication library counts; None when there is none.
        horovod_torch: The torch that Horovod was compiled for.
        horovod_with: What it was compiled with, such as ("MPI", "Gloo").
        horovod_rests: Whether its thread sleeps between exchanges, as in the build of this package.
        horovod_lets_go: Whether Python's threads run while one waits in it, as in that build.
        mpi_threads: The thread level MPI granted: "single", "funneled", "serialized", "multiple".
        mpirun: What the mpirun of PATH says of its version, in a line.
        home: Whether HOME is set, without which Open MPI starts neither mpirun nor a process.
        package: Digest of the source of this package.
        errors: What went wrong while looking, by the name of the library.
    """

    rank: int
    launch: Launch
    host: str
    host_resolves: bool
    cores: int
    python: str
    executable: str
    start_method: str
    cpus: tuple[int, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    torch: str | None = None
    torch_cuda: str | None = None
    cuda_devices: int = 0
    nvidia_driver: bool = False
    h5py: str | None = None
    hdf5: str | None = None
    mpi4py: str | None = None
    mpi_library: str | None = None
    mpi_threads: str | None = None
    mpirun: str | None = None
    horovod: str | None = None
    horovod_torch: str | None = None
    horovod_with: tuple[str, ...] = ()
    horovod_rests: bool = False
    horovod_lets_go: bool = True
    started: int | None = None
    network: Finding | None = None
    allocated: tuple[str, ...] = ()
    home: bool = True
    package: str = ""
    errors: Mapping[str, str] = field(default_factory=dict)


def collect(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the facts that need no communication, as keyword arguments of `Facts`."""
    torch = gpu.installed_torch()
    launch, network = detect(environ), reachability.network_here()
    judged = reachability.judge(network, launch, environ)
    return {
        "rank": launch.rank,
        "launch": launch,
        "host": socket.gethostname(),
        "host_resolves": _resolves(socket.gethostname()),
        "cores": len(os.sched_getaffinity(0)),
        "cpus": tuple(sorted(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        "executable": sys.executable,
        "start_method": multiprocessing.get_start_method(allow_none=True) or _default_start(),
        "environ": {name: environ[name] for name in ENV_SHOWN if name in environ},
        "torch": torch.version if torch else None,
        "torch_cuda": torch.cuda if torch else None,
        "cuda_devices": _cuda_devices() if torch and torch.cuda else 0,
        "nvidia_driver": Path("/dev/nvidiactl").exists(),
        "network": reachability.loopback(network, judged),
        "allocated": allocation.of_this_process(environ),
        "mpi4py": installed("mpi4py"),
        "home": "HOME" in environ,
        "package": package_digest(),
        "mpirun": _mpirun(environ),
        "horovod": installed("horovod"),
        **_hdf5(),
    }


def installed(name: str) -> str | None:
    """Return the version of an installed package without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _mpirun(environ: Mapping[str, str]) -> str | None:
    """Return what the mpirun of PATH says of itself; None without one, or if it is silent.

    Asked only of one process that no launcher started: inside a job its mpirun has done its work.
    """
    program = shutil.which("mpirun", path=environ.get("PATH"))
    if program is None or detect(environ).launcher != "none":
        return None
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next((line.strip() for line in said.stdout.splitlines() if line.strip()), None)


def _default_start() -> str:
    # Asking with allow_none=False would fix the method for the rest of the process.
    return multiprocessing.get_all_start_methods()[0]


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()


def _hdf5() -> dict[str, str | None]:
    try:
        import h5py
    except ImportError:
        return {}
    return {"h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version}
