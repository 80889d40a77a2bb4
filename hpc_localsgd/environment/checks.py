"""The doctor's judgement of one machine's software: pure functions from facts to findings."""

from __future__ import annotations

import re
from collections.abc import Callable

from hpc_localsgd.engine.finding import OK, PROBLEM, WARNING, Finding
from hpc_localsgd.environment.facts import Facts
from hpc_localsgd.environment.prerequisites import SUPPORTED

BUILD_HOROVOD = "python -m hpc_localsgd.environment.horovod"


def python(facts: Facts) -> Finding:
    """Judge the Python version."""
    version = tuple(int(part) for part in facts.python.split(".")[:2])
    text = f"{facts.python} ({facts.executable})"
    if SUPPORTED[0] <= version <= SUPPORTED[1]:
        return Finding(OK, "Python", text)
    return Finding(WARNING, "Python", text, "tried with Python 3.10 to 3.13: make env PYTHON=...")


def torch(facts: Facts) -> Finding:
    """Judge PyTorch: without it only plans and recorded trajectories can be read."""
    if facts.torch is None:
        return Finding(PROBLEM, "PyTorch", "not installed", "make env, or pip install torch")
    return Finding(OK, "PyTorch", facts.torch)


def cuda(facts: Facts) -> Finding:
    """Judge whether torch can use the GPUs that are here."""
    if facts.cuda_devices:
        some = f"{facts.cuda_devices} device{'s' * (facts.cuda_devices != 1)}"
        return Finding(OK, "CUDA", f"{facts.torch_cuda}, {some}")
    if not facts.nvidia_driver:
        return Finding(OK, "CUDA", "no GPU here: everything runs on the CPU")
    if facts.torch_cuda is None:
        return Finding(
            WARNING, "CUDA", "a GPU is here, but torch is a CPU build", "pip install a CUDA torch"
        )
    hidden = facts.environ.get("CUDA_VISIBLE_DEVICES")
    fix = "unset CUDA_VISIBLE_DEVICES" if hidden == "" else "nvidia-smi; in Slurm ask: --gres=gpu:N"
    return Finding(WARNING, "CUDA", "a GPU is here, but torch sees none", fix)


def mpi(facts: Facts) -> Finding:
    """Judge the MPI library that mpi4py loads, and its thread level."""
    if "MPI" in facts.errors:
        fix = "load the MPI module the environment was built with, or: make env"
        return Finding(PROBLEM, "MPI", facts.errors["MPI"], fix)
    if facts.mpi4py is None:
        text = "mpi4py is not installed: no --world mpi"
        return Finding(WARNING, "MPI", text, "make env, or pip install mpi4py")
    if facts.mpi_library is None:
        return Finding(OK, "MPI", f"mpi4py {facts.mpi4py}; not started under Gloo")
    text = f"{facts.mpi_library}, mpi4py {facts.mpi4py}, threads: {facts.mpi_threads}"
    if facts.mpi_threads == "multiple":
        return Finding(OK, "MPI", text)
    fix = "use an MPI built with MPI_THREAD_MULTIPLE: Horovod communicates from a thread of its own"
    return Finding(WARNING, "MPI", text, fix)


def mpirun(facts: Facts) -> Finding:
    """Judge whether the mpirun of PATH belongs to the library that ranks will load.

    Only Open MPI's two are compared, whose versions are written alike.
    """
    if not facts.home:
        text = "HOME is not set, without which Open MPI starts neither mpirun nor a rank"
        return Finding(WARNING, "mpirun", text, "export HOME=FOLDER, one that you can write")
    if facts.mpirun is None:
        return Finding(OK, "mpirun", "none is needed here")
    pattern = r"Open MPI\)? v?(\d+\.\d+)"
    ours, theirs = (re.search(pattern, text or "") for text in (facts.mpi_library, facts.mpirun))
    if ours is None or theirs is None or ours[1] == theirs[1]:
        return Finding(OK, "mpirun", facts.mpirun)
    text = f"{facts.mpirun} is first on PATH, but mpi4py loads {facts.mpi_library}"
    fix = "put the mpirun of that library first on PATH (`which -a mpirun`), or: make env"
    return Finding(WARNING, "mpirun", text, fix)


def horovod(facts: Facts) -> Finding:
    """Judge Horovod's build: for which torch, and with what."""
    if facts.horovod is None:
        level = PROBLEM if facts.launch.launcher.startswith("horovodrun") else WARNING
        text = "not installed: one process and --world mpi still work"
        return Finding(level, "Horovod", text, BUILD_HOROVOD)
    if facts.horovod_torch not in (None, facts.torch):
        text = f"built for torch {facts.horovod_torch}, but torch is {facts.torch}"
        return Finding(PROBLEM, "Horovod", text, BUILD_HOROVOD)
    if "Horovod" in facts.errors:
        fix = BUILD_HOROVOD + " --force"
        return Finding(PROBLEM, "Horovod", facts.errors["Horovod"], fix)
    text = f"{facts.horovod} for torch {facts.horovod_torch}, with {', '.join(facts.horovod_with)}"
    if facts.horovod_lets_go:
        return Finding(OK, "Horovod", text)
    text += "; while it waits for ranks out of reach, Python hears no signal and writes no shard"
    return Finding(WARNING, "Horovod", text, f"{BUILD_HOROVOD} --force")


def nccl(facts: Facts) -> Finding:
    """Judge whether GPU tensors travel by NCCL, or through the host's memory."""
    if not facts.cuda_devices:
        return Finding(OK, "NCCL", "not needed without a GPU")
    if facts.horovod is None or "NCCL" in facts.horovod_with:
        return Finding(OK, "NCCL", "in Horovod" if facts.horovod else "Horovod is not installed")
    text = "Horovod was built without it: GPU tensors travel through the host's memory"
    if "CUDA" not in facts.horovod_with:
        text = "Horovod was built without CUDA and NCCL: it takes CPU tensors only"
    return Finding(WARNING, "NCCL", text, f"load CUDA (nvcc) and NCCL, then {BUILD_HOROVOD}")


def hdf5(facts: Facts) -> Finding:
    """Judge h5py, without which nothing can be recorded or read."""
    if facts.h5py is None:
        return Finding(PROBLEM, "HDF5", "h5py is not installed", "make env, or pip install h5py")
    return Finding(OK, "HDF5", f"h5py {facts.h5py}, HDF5 {facts.hdf5}")


def slurm(facts: Facts) -> Finding:
    """Show what Slurm has set."""
    given = [f"{name[6:].lower()}={v}" for name, v in facts.environ.items() if name[:6] == "SLURM_"]
    if not given:
        return Finding(OK, "Slurm", "not in a job")
    return Finding(OK, "Slurm", ", ".join(given))


def dataloader(facts: Facts) -> Finding:
    """Judge the start method of DataLoader workers: MPI and fork do not go together."""
    text = f"worker processes start by {facts.start_method}"
    alone = facts.launch.launcher in ("none", "horovodrun --gloo", "torchrun")
    if alone or facts.start_method != "fork":
        return Finding(OK, "DataLoader", text)
    fix = 'DataLoader(..., multiprocessing_context="forkserver") where num_workers > 0'
    return Finding(WARNING, "DataLoader", f"{text}: unsafe once MPI runs", fix)


def network(facts: Facts) -> Finding:
    """Show the host's names and interfaces, or what is wrong with them."""
    return facts.network or Finding(OK, "network", "not looked at")


ON_EACH: tuple[Callable[[Facts], Finding], ...] = (
    python,
    torch,
    cuda,
    mpi,
    mpirun,
    horovod,
    nccl,
    hdf5,
    network,
    slurm,
    dataloader,
)
