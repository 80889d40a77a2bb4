"""What a command may replace: a file such as it writes itself, and never another one.

A wrong --out, with --overwrite or a name that happens to be taken, must cost nobody a file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py

from hpc_localsgd.analysis.own_files import is_foreign
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.checkpoint.listing import SHARD
from hpc_localsgd.trajectory import Trajectory, TrajectoryError

DCP = (".metadata", ".metadata.tmp")  # the second: a writer was killed, or its disk full
SUFFIXES = (".h5", ".hdf5")


def check_replaceable(out: Path, ours: Callable[[Path], bool], what: str) -> None:
    """Refuse a place where there is something else than such a command writes.

    Args:
        out: The file or folder; an empty file holds nothing, and may be replaced.
        ours: Whether what is there may be.
        what: Name of what the command writes, for the message.

    Raises:
        ConfigurationError: Something else is there.
    """
    if is_foreign(out, ours):
        raise ConfigurationError(
            f"--out {out} is not {what}, and only such a one is replaced: give another --out, or "
            "move away what is there"
        )


def check_hdf5_name(out: Path) -> None:
    """Refuse a name that does not end as HDF5 files do: a figure beside it may take such a name.

    Raises:
        ConfigurationError: It does not.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigurationError(f"--out {out}: give the name of a file that ends in .h5")


def is_sharpness(path: Path) -> bool:
    """Return whether a file is one of `sharpness`, and not the record of a run."""
    try:
        return "sharpness" in Trajectory(path, segments=False).config
    except TrajectoryError:
        return False


def is_landscape(path: Path) -> bool:
    """Return whether a file is one of `landscape`."""
    return path.is_file() and "landscape_version" in (hdf5_attributes(path) or ())


def is_model(path: Path) -> bool:
    """Return whether a file is a model in safetensors that this package wrote."""
    from hpc_localsgd.run.final_model import step_of

    try:
        return step_of(path) >= 0
    except ConfigurationError:
        return False


def is_state_dict(path: Path) -> bool:
    """Return whether a file is one of `torch.save`, and not a shard of a checkpoint."""
    if not path.is_file() or SHARD.fullmatch(path.name) or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.endswith("/data.pkl") for name in file.namelist())


def is_dcp(path: Path) -> bool:
    """Return whether a folder holds a checkpoint of torch.distributed and nothing else."""
    return path.is_dir() and all(
        file.name in DCP or file.suffix == ".distcp" for file in path.iterdir()
    )


def hdf5_attributes(path: Path) -> set[str] | None:
    """Return the names of a file's root attributes; None where it cannot be read as HDF5."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return set(file.attrs)
    except (OSError, RuntimeError, KeyError):
        return None
