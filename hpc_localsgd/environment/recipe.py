"""What Horovod's build is told, and what it finds on PATH. Standard library only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from hpc_localsgd.environment import gpu, mpi


def build_environment(
    environ: Mapping[str, str],
    found: mpi.MpiCompiler | None,
    gpus: gpu.Gpu,
    prefix: Path,
) -> dict[str, str]:
    """Return the environment variables Horovod's build reads; what the caller has set stays."""
    env = {
        **environ,
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITH_MPI" if found else "HOROVOD_WITHOUT_MPI": "1",
        # CMake 4 refuses the old projects bundled with Horovod unless it is told this.
        "CMAKE_POLICY_VERSION_MINIMUM": environ.get("CMAKE_POLICY_VERSION_MINIMUM", "3.5"),
        # Not what `make env` hands down: that make has its own flags, and no -j.
        "MAKEFLAGS": f"-j{jobs()}",
    }
    # MPI first, so that CMake asks the wrapper we chose; then the environment with its tools.
    folders = ([str(found.bin)] if found else []) + [str(prefix / "bin"), environ.get("PATH", "")]
    env["PATH"] = os.pathsep.join(folders)
    if shutil.which("make", path=env["PATH"]) is None:
        env["CMAKE_GENERATOR"] = "Ninja"
    env.update(_gpu_environment(environ, gpus))
    return env


def _gpu_environment(environ: Mapping[str, str], gpus: gpu.Gpu) -> dict[str, str]:
    env: dict[str, str] = {}
    if gpus.cuda:
        # Named, because the nvcc on PATH may be a wrapper far from its toolkit.
        env |= {
            "HOROVOD_GPU": "CUDA",
            "HOROVOD_CUDA_HOME": str(gpus.cuda),
            "CUDA_HOME": str(gpus.cuda),
        }
    if gpus.nccl:
        env |= {
            "HOROVOD_GPU_OPERATIONS": environ.get("HOROVOD_GPU_OPERATIONS", "NCCL"),
            "HOROVOD_NCCL_INCLUDE": str(gpus.nccl.include),
            "HOROVOD_NCCL_LIB": str(gpus.nccl.lib),
            "HOROVOD_NCCL_LINK": "SHARED",
        }
    return env


def jobs() -> int:
    """Return the number of compilers to run: the cores we may use, but 2 GB of memory for each."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory_bytes // 2**31))
