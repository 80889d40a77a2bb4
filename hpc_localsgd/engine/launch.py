"""Who started this process: the launcher, the rank and the size it promised.

A pure function of the environment variables. Inside a Slurm job several launchers leave their
marks at once, and Slurm's are the least to be believed: under mpirun and horovodrun every rank of
a job step sees SLURM_PROCID=0. So the innermost launcher is asked first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Facts given by the launcher; None where it gave none.

    Attributes:
        launcher: "torchrun", "horovodrun --gloo", "mpirun", "pmix", "pmi", "srun", "sbatch" (a
            Slurm job that started Python without srun) or "none".
        rank: The rank of this process in the whole run; 0 when nothing launched it.
        size: The number of ranks the launcher was asked for; 1 when nothing launched it.
        local_rank: The rank among the processes on this host.
        source: The variable that gave the size, for messages; empty when none did.
    """

    launcher: str
    rank: int
    size: int | None
    local_rank: int | None
    source: str

    @property
    def launched(self) -> bool:
        """Whether this process is a launcher's; the script of a job and salloc's shell are not."""
        return self.launcher not in ("none", "sbatch")

    @property
    def started(self) -> int | None:
        """Number of processes that the launcher started; None if it does not say."""
        return self.size if self.launched else 1

    @property
    def if_left_over(self) -> str:
        """What to type for a process that is alone because no launcher started it; "" in a step."""
        if self.launcher == "srun":
            return ""
        return f"; if no launcher started this process, `unset {self.source}`"


@dataclass(frozen=True)
class _Launcher:
    name: str
    rank: str
    sizes: tuple[str, ...]
    local_ranks: tuple[str, ...]
    mark: str = ""  # where the names above are not one launcher's alone

    def left_marks(self, environ: Mapping[str, str]) -> bool:
        if self.mark:
            return self.mark in environ
        # Its rank or its size is enough: a wrapper script may have dropped the other.
        own = [name for name in self.sizes if name.split("_")[0] == self.rank.split("_")[0]]
        return any(name in environ for name in (self.rank, *own))


_SLURM_SIZES = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")

# In the order in which they are believed.
_LAUNCHERS = (
    _Launcher("torchrun", "RANK", ("WORLD_SIZE",), ("LOCAL_RANK",), "TORCHELASTIC_RUN_ID"),
    _Launcher("horovodrun --gloo", "HOROVOD_RANK", ("HOROVOD_SIZE",), ("HOROVOD_LOCAL_RANK",)),
    _Launcher(
        "mpirun", "OMPI_COMM_WORLD_RANK", ("OMPI_COMM_WORLD_SIZE",), ("OMPI_COMM_WORLD_LOCAL_RANK",)
    ),
    _Launcher("pmix", "PMIX_RANK", ("PMIX_SIZE", *_SLURM_SIZES), ("SLURM_LOCALID",)),
    _Launcher(
        "pmi", "PMI_RANK", ("PMI_SIZE",), ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "SLURM_LOCALID")
    ),
    _Launcher("srun", "SLURM_PROCID", _SLURM_SIZES, ("SLURM_LOCALID",)),
)


def detect(environ: Mapping[str, str] = os.environ) -> Launch:
    """Return who launched this process, from environment variables alone.

    >>> detect({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "SLURM_PROCID": "0"}).rank
    3
    """
    for launcher in _LAUNCHERS:
        if not launcher.left_marks(environ):
            continue
        rank = _number(environ, launcher.rank)
        size, source = _first(environ, launcher.sizes)
        local_rank, _ = _first(environ, launcher.local_ranks)
        return Launch(_named(launcher.name, environ), rank or 0, size, local_rank, source)
    return Launch("none", 0, 1, 0, "")


def _named(name: str, environ: Mapping[str, str]) -> str:
    # A job script (or the shell of salloc) has Slurm's variables too, but belongs to no job step.
    if name == "srun" and "SLURM_STEP_ID" not in environ:
        return "sbatch"
    if name == "pmix" and "SLURM_STEP_ID" in environ:
        return "srun"
    return name


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[int | None, str]:
    for name in names:
        if (number := _number(environ, name)) is not None:
            return number, name
    return None, ""


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else None
