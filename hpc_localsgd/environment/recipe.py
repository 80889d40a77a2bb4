"""How Horovod 0.28.1 is compiled today: what is patched, and what its build is told.

Horovod's last release is older than the torch and the Open MPI it meets today. Every patch is a
text replaced in one file; one that does not find its text stops the build, so nothing is patched by
halves. Standard library only.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpc_localsgd.environment import gpu, mpi

HOROVOD_VERSION = "0.28.1"


@dataclass(frozen=True)
class Patch:
    """In `file`, `old` becomes `new`, because of `why`."""

    file: str
    old: str
    new: str
    why: str


PATCHES = (
    Patch(
        "setup.py",
        "make_args.append('VERBOSE=1')",
        "pass",
        "pip -v, which shows the progress, would ask for every command too; ninja refuses it",
    ),
    Patch(
        "CMakeLists.txt",
        "set(CMAKE_CXX_STANDARD 14)",
        "set(CMAKE_CXX_STANDARD 20)",
        "torch's headers need C++20",
    ),
    Patch(
        "horovod/torch/CMakeLists.txt",
        "set(CMAKE_CXX_STANDARD 14)",
        "set(CMAKE_CXX_STANDARD 20)",
        "the torch part sets its own standard again",
    ),
    Patch(
        "cmake/Modules/FindPytorch.cmake",
        "(torch.version.cuda is not None) and (CUDA_HOME is not None)",
        "(torch.version.cuda is not None) and "
        "__import__('os').environ.get('HOROVOD_GPU') == 'CUDA'",
        "PyPI's torch is a CUDA build; it alone must not demand a CUDA toolkit nobody needs here",
    ),
    Patch(
        "horovod/runner/launch.py",
        "def run_commandline():\n",
        "def run_commandline():\n"
        "    os.environ['PATH'] = os.pathsep.join(\n"
        "        [os.path.dirname(sys.executable), os.environ.get('PATH', os.defpath)])\n",
        "horovodrun calls a bare `mpirun`: find the one beside it, activated or not",
    ),
    Patch(
        "horovod/runner/mpi_run.py",
        "_NO_BINDING_ARGS = ['-bind-to none', '-map-by slot']",
        "_NO_BINDING_ARGS = ['--bind-to none', '--map-by slot']",
        "Open MPI 5 ignores the one-dash spelling, binds to cores, and refuses 4 ranks on 2 cores",
    ),
    Patch(
        "horovod/runner/mpi_run.py",
        "os.execve('/bin/sh', ['/bin/sh', '-c', mpirun_command], env)",
        "os.execve('/bin/sh', ['/bin/sh', '-c', 'exec ' + mpirun_command], env)",
        "a signal to horovodrun must reach mpirun, or the ranks live on as orphans",
    ),
)


def apply(source: Path, patches: tuple[Patch, ...] = PATCHES) -> None:
    """Change the unpacked source in place.

    Raises:
        ValueError: A patch's text is not in its file exactly once; that file is unchanged.
    """
    for patch in patches:
        path = source / patch.file
        text = path.read_text(encoding="utf-8")
        if text.count(patch.old) != 1:
            raise ValueError(
                f"{patch.file} does not contain {patch.old!r} exactly once: "
                f"is this Horovod {HOROVOD_VERSION}? (patch: {patch.why})"
            )
        path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")


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
    """Return how many compilers to run: the cores we may use, but 2 GB of memory for each."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory_bytes // 2**31))
