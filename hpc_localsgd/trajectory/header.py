"""What a run says about itself: the attributes of the file's root."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from hpc_localsgd.trajectory.schema import CLOCKS, SCHEMA_VERSION, TrajectoryError

SLURM_VARIABLES = (
    "SLURM_CLUSTER_NAME",
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_NUM_NODES",
    "SLURM_NTASKS",
    "SLURM_RESTART_COUNT",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
)


@dataclass(frozen=True)
class Header:
    """Facts of a run that are known before its first step.

    Attributes:
        config: The whole resolved configuration as YAML text.
        task: `repr` of the task; so for `algorithm`, `schedule` and `world`.
        algorithm: Legend of a figure.
        schedule: When the workers synchronise.
        world: Where they live and how they talk.
        K: Workers of the run.
        P: Parameters of the model.
        seed: The run's seed.
        clock: ``measured`` or ``modelled`` seconds.
        t0: Global step at which this file begins; above 0 in the segments of a resumed run.
        steps: Optimiser steps the run is to have; 0 where that is not known.
        steps_per_epoch: Steps of one pass over the training data; NaN where that is not known.
        begins_from: Whose parameters it begins with, in words; empty where they are drawn.
        git: Commit of the code; looked up when left empty, stays empty outside a checkout.
        package_version: Version of hpc_localsgd; looked up when left empty.
    """

    config: str
    task: str
    algorithm: str
    schedule: str
    world: str
    K: int
    P: int
    seed: int
    clock: str = "measured"
    t0: int = 0
    steps: int = 0
    steps_per_epoch: float = math.nan
    begins_from: str = ""
    git: str = field(default_factory=lambda: git_commit(Path(__file__).parents[2]))
    package_version: str = field(default_factory=lambda: package_version())

    def __post_init__(self) -> None:
        """Check K, P, t0 and clock; raise TrajectoryError for what no run can have."""
        if self.K < 1 or self.P < 1 or self.t0 < 0:
            given = f"K={self.K}, P={self.P}, t0={self.t0}"
            raise TrajectoryError(f"header with {given}: K and P are at least 1, t0 at least 0.")
        if self.clock not in CLOCKS:
            raise TrajectoryError(f"clock {self.clock!r} is unknown; write {' or '.join(CLOCKS)}.")

    @property
    def digest(self) -> str:
        """SHA-256 of the configuration text: equal digests, equal configurations."""
        return hashlib.sha256(self.config.encode()).hexdigest()

    def attrs(self, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
        """Return the root attributes of a new file.

        Args:
            environ: Where Slurm's variables are looked up.
        """
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        slurm = {name.lower(): environ[name] for name in SLURM_VARIABLES if environ.get(name)}
        return {
            "schema_version": SCHEMA_VERSION,
            **facts,
            "digest": self.digest,
            **slurm,
            "status": "running",
            "created": utc_now(),
            "closed": "",
        }


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC with seconds: ``2025-01-31T12:00:00+00:00``."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def package_version() -> str:
    """Return the version of the installed package, or ``unknown`` when run from a folder."""
    try:
        return metadata.version("hpc_localsgd")
    except metadata.PackageNotFoundError:
        return "unknown"


def git_commit(checkout: Path) -> str:
    """Return the commit of `checkout`, or ``""`` where there is none (an installed package).

    The files of ``.git`` are read directly: starting a `git` process forks, which some MPI
    transports do not survive.

    Args:
        checkout: The folder that would hold ``.git``. Its parents are not searched: they may be
            another project's repository with this package in its virtual environment.
    """
    git = checkout / ".git"
    return _head_of(git) if git.is_dir() else ""


def _head_of(git: Path) -> str:
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head[len("ref: ") :]
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(" " + name)), "")
    except OSError:
        return ""
