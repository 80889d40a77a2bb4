"""The world this process was started in, when `attach` is not given one."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec

import torch

from hpc_localsgd.types import ConfigurationError
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.horovod import Horovod
from hpc_localsgd.worlds.mpi import Mpi
from hpc_localsgd.worlds.simulated import Simulated
from hpc_localsgd.worlds.torch import Torch

# What launchers tell every rank, the innermost first. Slurm's marks count in a job step only.
_SIZES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
_MISSING = object()


def world_here(
    device: torch.device, environ: Mapping[str, str] = os.environ, n: int | None = None
) -> World:
    """Return the world of this process, with one worker.

    Horovod if the script has initialised it, else torch.distributed if the script has; under
    torchrun torch.distributed; under another launcher Horovod if it is installed, else MPI; with
    no launcher a world of one worker.

    Args:
        device: Where the parameters live.
        environ: Environment variables.
        n: Number of ranks the launcher promised; None to look it up.

    Raises:
        ConfigurationError: There is a launcher and no library, or they differ in the ranks.
    """
    kind, promised = choose(environ), promised_ranks(environ) if n is None else n
    told = kind == "torch" and _initialised("torch.distributed")  # the script said how many
    if kind == "simulated":
        return Simulated(1, device)
    if kind == "torch" and not _initialised("torch.distributed"):
        atexit.register(_leave_torch)
    made: dict[str, type[Horovod] | type[Torch] | type[Mpi]]
    made = {"horovod": Horovod, "torch": Torch, "mpi": Mpi}
    world = made[kind](None, device)
    if promised not in (None, world.n) and not told and not _part_of_mpi(kind, promised):
        raise ConfigurationError(
            f"the launcher started {promised} processes, but {kind} joined {world.n}: the launcher "
            "and the library belong to different MPIs; run `python -m hpc_localsgd doctor` under "
            "the same launcher"
        )
    return world


def choose(environ: Mapping[str, str]) -> str:
    """Return the kind of world: horovod, torch, mpi or simulated."""
    if _initialised("horovod.torch"):
        return "horovod"
    if _initialised("torch.distributed") or "TORCHELASTIC_RUN_ID" in environ:
        return "torch"
    if (promised_ranks(environ) or 1) == 1 and not _has_rank(environ):
        return "simulated"
    for kind, package in (("horovod", "horovod"), ("mpi", "mpi4py")):
        if find_spec(package):
            return kind
    raise ConfigurationError(
        "a launcher started this process, but neither horovod nor mpi4py is installed: "
        "type `pip install mpi4py`, or initialise torch.distributed before attach"
    )


def promised_ranks(environ: Mapping[str, str]) -> int | None:
    """Return how many ranks the launcher says it started; None if nothing says so.

    Torchrun may run inside srun or mpirun, which have started torchrun and know nothing of ranks.
    """
    if "TORCHELASTIC_RUN_ID" in environ and environ.get("WORLD_SIZE", "").isdecimal():
        return int(environ["WORLD_SIZE"])
    in_step = "SLURM_STEP_ID" in environ
    for name in _SIZES:
        if environ.get(name, "").isdecimal() and (in_step or not name.startswith("SLURM")):
            return int(environ[name])
    return None


def _part_of_mpi(kind: str, promised: int | None) -> bool:
    """Return whether MPI joined all ranks, of which the script gave Horovod a part.

    With `hvd.init(comm=half)` Horovod has fewer ranks on purpose. Where MPI itself has fewer, it is
    not the launcher's, and every process would train alone.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    return kind == "horovod" and mpi is not None and mpi.COMM_WORLD.size == promised


def _leave_torch() -> None:
    """End the process group that was started here, without waiting for ranks that may be gone.

    Gloo's threads let go of the last tensor after the exchange has returned; if Python ends before
    that, or with the group still there, the process aborts (seen in 3 of 6 runs without this).
    """
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_initialized():
        time.sleep(0.05)
        dist.destroy_process_group()


def _has_rank(environ: Mapping[str, str]) -> bool:
    in_step = "SLURM_STEP_ID" in environ
    return any(name in environ and (in_step or not name.startswith("SLURM")) for name in _RANKS)


def _initialised(module: str) -> bool:
    """Return whether the script has imported and initialised it, without importing it."""
    library = sys.modules.get(module, _MISSING)
    asked = getattr(library, "is_initialized", lambda: False)
    available = getattr(library, "is_available", lambda: True)
    return bool(available() and asked())
