"""The world that a process was started in: what the script or the launcher has begun.

The trainer and `attach` ask here. What a script has initialised comes first; then torchrun means
torch.distributed, another launcher Horovod if it is installed, else MPI, and no launcher a world of
this process alone.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hpc_localsgd.engine.reachability import check_before
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.horovod import Horovod
from hpc_localsgd.worlds.mpi import Mpi
from hpc_localsgd.worlds.torch import Torch

if TYPE_CHECKING:
    import torch

    from hpc_localsgd.engine.launch import Launch
    from hpc_localsgd.worlds.base import World

SIMULATED = "simulated"
WORLDS: dict[str, type[Horovod] | type[Mpi] | type[Torch]] = {
    "horovod": Horovod,
    "mpi": Mpi,
    "torch": Torch,
}
_LIBRARIES = {"horovod": "horovod.torch", "torch": "torch.distributed"}  # that a script initialises
_MISSING = object()


def kind_of_world(launch: Launch, alone: str = "") -> str:
    """Return the kind of world for a process: horovod, mpi, torch or simulated.

    Args:
        launch: How it was started.
        alone: What to type where a process of a Slurm job of several tasks is meant to be alone;
            "" where that has been said.

    Raises:
        ConfigurationError: There is a launcher and no library, or a job of several tasks and no
            launcher: each of its processes would train alone.
    """
    for kind in _LIBRARIES:
        if _initialised(kind):
            return kind
    if launch.started == 1:
        if alone and launch.launcher == "sbatch" and (launch.size or 1) > 1:
            raise ConfigurationError(
                f"Slurm gave this job {launch.size} tasks ({launch.source}), but one process was "
                f"started: put `srun --mpi=pmix` in front, or {alone}"
            )
        return SIMULATED
    if launch.launcher == "torchrun":
        return "torch"
    for kind, package in (("horovod", "horovod"), ("mpi", "mpi4py")):
        if find_spec(package):
            return kind
    raise ConfigurationError(
        "a launcher started this process, but neither horovod nor mpi4py is installed: "
        "type `pip install mpi4py`, or start it with torchrun"
    )


def join(kind: str, launch: Launch, device: torch.device, workers: int | None = None) -> World:
    """Join the ranks of a launch in a world.

    Args:
        kind: horovod, mpi or torch.
        launch: How this process was started.
        device: Where the parameters live.
        workers: K; None for one a rank.

    Raises:
        ConfigurationError: The library is missing, or has joined other ranks than the launcher
            started; or hosts cannot reach each other, which is found before anything connects.
    """
    before = _initialised(kind)
    if launch.launched and not before:
        check_before(os.environ, launch, kind)
    world = WORLDS[kind](workers, device)
    n = launch.started
    # The script told torch how many. Ranks of no launcher that we know are believed if it has them.
    told = before and (kind == "torch" or not launch.launched)
    if n not in (None, world.n) and not told and not _part_of_mpi(kind, n):
        raise ConfigurationError(
            f"{launch.launcher} started {n} processes, but {kind} joined {world.n}: "
            f"{_why_others(kind, launch)}{launch.if_left_over if world.n == 1 else ''}"
        )
    return world


def _why_others(kind: str, launch: Launch) -> str:
    """Say why a library has joined other ranks than a launcher started, and what to type."""
    library = sys.modules.get(_LIBRARIES.get(kind, ""))
    if kind == "horovod" and not getattr(library, "mpi_built", lambda: True)():
        return (
            f"this Horovod has no MPI, only Gloo, which {launch.launcher} tells nothing of its "
            "ranks: start it by horovodrun --gloo, compile it with MPI (python -m "
            "hpc_localsgd.environment.horovod), or use mpi4py's (--world mpi)"
        )
    if launch.launcher == "srun":
        return (
            "Slurm told MPI nothing of them: type `srun --mpi=pmix` (srun --mpi=list shows what "
            "this cluster has), or start them by mpirun"
        )
    return (
        "the launcher and the library belong to different MPIs; "
        "run `python -m hpc_localsgd doctor` under the same launcher"
    )


def _part_of_mpi(kind: str, promised: int | None) -> bool:
    """Return whether MPI joined all ranks, of which the script gave Horovod a part.

    With `hvd.init(comm=half)` Horovod has fewer ranks on purpose. Where MPI itself has fewer, it is
    not the launcher's, and every process would train alone.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    return kind == "horovod" and mpi is not None and mpi.COMM_WORLD.size == promised


def _initialised(kind: str) -> bool:
    """Return whether the script has imported and initialised a library, without importing it."""
    library = sys.modules.get(_LIBRARIES.get(kind, ""), _MISSING)
    asked = getattr(library, "is_initialized", lambda: False)
    available = getattr(library, "is_available", lambda: True)
    return bool(available() and asked())
