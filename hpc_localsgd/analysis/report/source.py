"""A run and what was measured of it later: the files beside its trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import yaml

from hpc_localsgd.analysis.planned import Planned, Unplannable, planned
from hpc_localsgd.trajectory import Trajectory, TrajectoryError
from hpc_localsgd.trajectory.opening import check_bytes
from hpc_localsgd.trajectory.safe_text import load_yaml
from hpc_localsgd.trajectory.vetting import vet

SHARPNESS, LANDSCAPE = "sharpness.h5", "landscape*.h5"


@dataclass(frozen=True)
class Source:
    """Files that a report is made from.

    Attributes:
        run: The run.
        name: What it is called on the page.
    """

    run: Trajectory
    name: str

    @property
    def folder(self) -> Path:
        """Folder of the trajectory."""
        return self.run.path.parent

    @cached_property
    def sharpness(self) -> Trajectory | None:
        """Findings of `python -m hpc_localsgd sharpness`; None if there is no readable file."""
        path = self.folder / SHARPNESS
        try:
            there = path.exists() and path not in self.outdated
            return Trajectory(path, segments=False) if there else None
        except TrajectoryError:
            return None

    @property
    def files(self) -> list[Trajectory]:
        """Trajectory of the run, and of its sharpness if there is any."""
        return [self.run] + ([self.sharpness] if self.sharpness else [])

    @property
    def landscapes(self) -> list[Path]:
        """Files of `python -m hpc_localsgd landscape`."""
        return sorted(set(self.folder.glob(LANDSCAPE)) - set(self.outdated))

    @cached_property
    def outdated(self) -> list[Path]:
        """Files that were measured of an earlier run in this folder."""
        files = [self.folder / SHARPNESS, *sorted(self.folder.glob(LANDSCAPE))]
        ours = str(self.run.attrs["created"])
        return [path for path in files if _created(path) not in ("", ours)]

    @cached_property
    def plan(self) -> Planned | str:
        """Plan of the run, or why there is none."""
        try:
            return planned(self.run)
        except Unplannable as error:
            return str(error)

    @property
    def done(self) -> int:
        """Number of steps in the recorded rounds."""
        return int(self.run.rounds.step_end[-1]) if len(self.run.rounds) else 0


def open_runs(paths: list[str]) -> list[Source]:
    """Open runs, with names that tell them apart.

    Args:
        paths: Folders of runs, or trajectories.

    Raises:
        TrajectoryError: One of them cannot be read, or is given twice.
    """
    runs = [Trajectory(path) for path in paths]
    files = [run.paths[0].resolve() for run in runs]
    for i, file in enumerate(files):
        if file in files[:i]:  # it would count as another seed, and as one without deviation
            raise TrajectoryError(f"{paths[i]} is given twice: leave it out once")
    full = [_name(run) for run in runs]
    for depth in range(1, 20):
        short = ["/".join(Path(name).parts[-depth:]) for name in full]
        if len(set(short)) == len(set(full)):
            break
    return [Source(run, name) for run, name in zip(runs, short, strict=True)]


def _created(path: Path) -> str:
    """Return when the run began that a file was measured of; "" if the file does not say."""
    try:
        check_bytes(path)
        with h5py.File(path, "r", locking=False) as file:
            vet(path, file)
            said = load_yaml(str(file.attrs.get("settings", file.attrs.get("config", ""))))
    except (OSError, ValueError, RuntimeError, yaml.YAMLError):
        return ""
    if not isinstance(said, dict):
        return ""
    if "runs" in said:  # of a landscape: digest and date of each run
        runs = said["runs"]
        return str(runs[0]).rpartition(" of ")[2] if isinstance(runs, list) and runs else ""
    sharpness = said.get("sharpness")
    return str(sharpness.get("run_created", "")) if isinstance(sharpness, dict) else ""


def _name(run: Trajectory) -> str:
    path = run.path.resolve()
    return str(path.parent if path.name == "trajectory.h5" else path.with_suffix(""))
