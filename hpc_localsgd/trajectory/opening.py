"""Opening a trajectory to read, and saying in one sentence why it cannot be read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import h5py

from hpc_localsgd.trajectory.schema import READABLE, TrajectoryError
from hpc_localsgd.trajectory.vetting import vet

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_GIVE = "Give a trajectory.h5, or the folder of a run."


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open the file for reading as long as the block lasts.

    Without locks: parallel file systems often have none (errno 37 and 38 on Lustre and NFS), and a
    lock would keep a running job from its own file. The price is that a read may fall into a flush;
    it then fails with the message below and works a moment later.

    Args:
        path: One file of a run.

    Raises:
        TrajectoryError: If the file is missing, unreadable, damaged, or of another schema.
    """
    check_bytes(path)
    try:
        with _open(path) as file:
            vet(path, file)
            _check_version(path, file)
            yield file
    except (OSError, RuntimeError, ValueError, KeyError, MemoryError) as error:
        if isinstance(error, TrajectoryError):
            raise
        raise TrajectoryError(_explained(path, error)) from error


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        # The writer of this same process holds the file: HDF5 wants both to agree about locks.
        if "file locking flag" not in str(error):
            raise
        return h5py.File(path, "r", locking="best-effort")


def check_bytes(path: Path) -> None:
    """Refuse a file that is not HDF5.

    Raises:
        TrajectoryError: It is missing, cannot be read, or is something else.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device never ends
            raise TrajectoryError(f"{path}: not a file. {_GIVE}")
        with path.open("rb") as stream:
            begin = stream.read(len(_SIGNATURE))
    except FileNotFoundError:
        raise TrajectoryError(_missing(path)) from None
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot be read: {error.strerror}. {_GIVE}") from error
    if begin != _SIGNATURE:
        found = f"begins with {begin!r}" if begin else "is empty"
        raise TrajectoryError(f"{path}: not an HDF5 file (it {found}). {_GIVE}")


def _missing(path: Path) -> str:
    text = f"{path}: no such trajectory."
    if not path.parent.is_dir():
        return f"{text} The folder {path.parent} does not exist either. {_GIVE}"
    others = sorted(file.name for file in path.parent.glob("*.h5"))
    runs = sorted(str(file.parent) for file in path.parent.glob("*/trajectory.h5"))
    if others:
        return f"{text} The folder holds {_some(others)}."
    if runs:
        return f"{text} There are runs in {_some(runs)}."
    if (path.parent.parent / path.name).is_file():
        return f"{text} There is one in the folder above it, {path.parent.parent}."
    return f"{text} A run writes it into the folder given with --out."


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _check_version(path: Path, file: h5py.File) -> None:
    version = file.attrs.get("schema_version")
    if version is None:
        raise TrajectoryError(
            f"{path}: an HDF5 file, but not a trajectory: it has no schema_version. Give the"
            " trajectory.h5 of a run, or its folder."
        )
    if int(version) not in READABLE:
        writer = file.attrs.get("package_version", "of unknown version")
        known = " and ".join(map(str, READABLE))
        raise TrajectoryError(
            f"{path}: has schema version {int(version)}, written by hpc_localsgd {writer};"
            f" this one reads versions {known}. Read it with hpc_localsgd {writer}."
        )


def _explained(path: Path, error: Exception) -> str:
    cut = re.search(r"eof = (\d+).*stored_eof = (\d+)", str(error))
    if cut:
        here, whole = (int(number) for number in cut.groups())
        return (
            f"{path}: cut short: {here:,} of {whole:,} bytes are there. Copy it again from where"
            " it was written; if this is the original, its last part is lost."
        )
    first = str(error).split("\n")[0]
    return (
        f"{path}: damaged, or being written at this moment (HDF5 says: {first}). If the run is in"
        " progress, read it again in a moment; otherwise copy it again from where it was written."
    )
