"""What the tests of this folder share: a launcher that cannot hang, and invented facts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hpc_localsgd.engine.launch import Launch
from hpc_localsgd.environment.facts import Facts

BIN = Path(sys.executable).parent
LAUNCH_S = 100
_MARKS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "HOROVOD_", "SLURM_")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def healthy() -> Facts:
    """One process, alone, with everything in order."""
    return Facts(
        rank=0,
        launch=Launch("none", 0, 1, 0, ""),
        host="node1",
        host_resolves=True,
        cores=8,
        python="3.11.7",
        executable="/env/bin/python",
        start_method="forkserver",
        environ={"OMP_NUM_THREADS": "1"},
        torch="2.13.0+cpu",
        h5py="3.16.0",
        hdf5="2.0.0",
        mpi4py="4.1.2",
        mpi_library="Open MPI v5.0.11",
        mpi_threads="multiple",
        horovod="0.28.1",
        horovod_torch="2.13.0+cpu",
        horovod_with=("MPI", "Gloo"),
        started=1,
    )


@pytest.fixture
def run() -> Run:
    """Run a command with a clean launch environment and a time limit; kill all of it at the end."""

    def run(command: Sequence[str], **extra: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(_MARKS)}
        env.update(OMP_NUM_THREADS="1", OMPI_MCA_mpi_yield_when_idle="1", PYTHONUNBUFFERED="1")
        if os.geteuid() == 0:  # Open MPI refuses root, and containers often are
            env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        return subprocess.run(
            list(command), env={**env, **extra}, capture_output=True, text=True, timeout=LAUNCH_S
        )

    return run


@pytest.fixture
def mpirun() -> list[str]:
    """The mpirun that belongs to this environment, for 2 ranks on however few cores."""
    program = _program("mpirun")
    return [program, "-np", "2", "--bind-to", "none", "--oversubscribe"]


@pytest.fixture
def torchrun() -> list[str]:
    """This environment's torchrun, for 2 ranks."""
    return [_program("torchrun"), "--standalone", "--nproc-per-node=2", "--no-python"]


@pytest.fixture
def horovodrun() -> list[str]:
    """This environment's horovodrun, for 2 ranks."""
    return [_program("horovodrun"), "-np", "2"]


def _program(name: str) -> str:
    found = str(BIN / name) if (BIN / name).exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here; make env brings one")
    return found
