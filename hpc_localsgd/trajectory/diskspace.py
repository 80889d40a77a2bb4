"""Opening a file to write, and taking its disk space before HDF5 needs it.

HDF5 does not survive a full disk: after one failed write it has forgotten chunks it believes
written, and the superblock promises more bytes than there are, so the file does not open again
(both seen with HDF5 2.0). So nothing is given to HDF5 before the file system has promised the
space. A refusal then costs nothing: the file is untouched and the rows are still in memory.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import h5py

from hpc_localsgd.trajectory.whole_file import FULL, number_of, sync

_SLACK_BYTES = 256 * 1024  # HDF5 takes metadata blocks a few at a time
_HEAD = b"\x89HDF\r\n\x1a\n\0"  # of HDF5's default format, the earliest: version 0
_END_AT = 40
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_NO_RESERVATIONS = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.ENOSYS)


def open_to_write(path: Path, mode: str) -> h5py.File:
    """Open with HDF5's default format, the one that survives a kill and can be reopened.

    Args:
        path: The file.
        mode: ``x`` to create, ``r+`` to continue.

    Raises:
        OSError: As h5py raises it; BlockingIOError when another process is writing the file.
    """
    try:
        return h5py.File(path, mode, locking="best-effort")
    except OSError as error:
        # Lustre without -o flock and some NFS mounts have no locks at all: rank 0 is alone anyway.
        if error.errno not in _NO_LOCKS:
            raise
        path.unlink() if mode == "x" else None
        return h5py.File(path, mode, locking=False)


def promise(path: Path, needed_bytes: int) -> None:
    """Check that the disk has the space for a new file, before HDF5 makes it there.

    Args:
        path: Of the file, which is empty then.
        needed_bytes: Upper bound of what is written to it.

    Raises:
        OSError: The space is not there (disk full, quota, file size limit).
    """
    with path.open("wb") as file:
        _allocate(file.fileno(), 0, needed_bytes + _SLACK_BYTES)
        file.truncate(0)


def reserve(file: h5py.File, needed_bytes: int) -> None:
    """Reserve `needed_bytes` after the present end of the file in the file system.

    Args:
        file: A file opened by `open_to_write`.
        needed_bytes: Upper bound of what the next write takes.

    Raises:
        OSError: When the space is not there (disk full, quota, file size limit).
    """
    descriptor = file.id.get_vfd_handle()
    _allocate(descriptor, os.fstat(descriptor).st_size, needed_bytes + _SLACK_BYTES)
    say_end(file, os.fstat(descriptor).st_size)


def _allocate(descriptor: int, end: int, nbytes: int) -> None:
    allocate = getattr(os, "posix_fallocate", None)  # not on macOS
    if allocate is None:
        return
    try:
        allocate(descriptor, end, nbytes)
        sync(descriptor)  # a file server may have promised nothing before
    except OSError as error:
        os.ftruncate(descriptor, end)  # a refusal may have extended the file part of the way
        if error.errno not in _NO_RESERVATIONS:
            raise


def write(dataset: h5py.Dataset, place: Any, values: Any) -> None:
    """Write numbers of a dataset, and hear of it if that fails.

    HDF5 may write them as it closes the dataset, and tells nobody what becomes of it then.

    Args:
        dataset: Of a file opened by `open_to_write`.
        place: Where in it.
        values: The numbers.

    Raises:
        OSError: The disk refuses, or another of what h5py raises.
    """
    dataset[place] = values
    dataset.flush()


def flush(file: h5py.File) -> None:
    """Put on the disk what HDF5 has been given.

    Args:
        file: A file opened by `open_to_write`.

    Raises:
        OSError: The disk refuses, or another of what h5py raises.
    """
    file.flush()
    sync(file.id.get_vfd_handle())


def give_back(file: h5py.File) -> None:
    """Release what was reserved and not used; call it right after a flush.

    Args:
        file: A file opened by `open_to_write`.
    """
    # HDF5's own idea of the end is never below what its metadata promise.
    descriptor, end = file.id.get_vfd_handle(), file.id.get_filesize()
    say_end(file, end)
    os.ftruncate(descriptor, end)


def say_end(file: h5py.File, end: int) -> None:
    """Write into a file how long it is, before HDF5 writes anything there.

    HDF5 does so last. A process that is killed in a flush would leave objects beyond the end that
    the file speaks of, and it does not open then.

    Args:
        file: A file opened by `open_to_write`.
        end: Its length, or what HDF5 knows of it.
    """
    descriptor = file.id.get_vfd_handle()
    if os.pread(descriptor, len(_HEAD), 0) == _HEAD:
        os.pwrite(descriptor, end.to_bytes(8, "little"), _END_AT)


def why(error: BaseException | None) -> str:
    """Describe an error for a user.

    Args:
        error: What the operating system or HDF5 raised.
    """
    number = number_of(error)
    if number in FULL:
        return f"the disk is full or the quota used up ({os.strerror(number)})"
    if number == errno.EFBIG:
        return "the file may not grow further (File too large: ulimit -f)"
    if number == errno.EROFS:
        return f"it is mounted read-only there ({os.strerror(number)})"
    if number in (errno.EACCES, errno.EPERM):
        return f"this account may not write there ({os.strerror(number)})"
    if number == errno.EAGAIN:
        return "another process is writing this file"
    return os.strerror(number) if number else str(error).split("\n")[0]


def refused(error: OSError | RuntimeError, path: str | Path) -> str:
    """Return which file the system refused, and why.

    Args:
        error: What the operating system or HDF5 raised.
        path: Of the file, where the error does not say.

    Raises:
        RuntimeError: The error itself, where it is not the system's.
    """
    if not isinstance(error, OSError) and number_of(error) is None:
        raise error
    return f"{getattr(error, 'filename', None) or path}: {why(error)}"


def mend(error: BaseException | None) -> str:
    """Return what a user must do about a disk that refuses.

    Args:
        error: What was raised; None if that is not known.
    """
    number = number_of(error)
    if number == errno.EROFS:
        return "have it mounted writable, or leave that host out"
    if number in (errno.EACCES, errno.EPERM):
        return "give this account the right to write there"
    if number == errno.EFBIG:
        return "raise the limit (ulimit -f)"
    if number in (errno.ESTALE, errno.ENOTCONN, errno.ENOENT, errno.ENODEV):
        return "see whether it is still mounted there"
    if number in (errno.EIO, errno.ETIMEDOUT):
        return "have that disk checked, or leave that host out"
    if number == errno.EAGAIN:
        return "wait for its end"
    return "make space"


def to_continue(error: BaseException | None) -> str:
    """Return the same for a command that keeps what it has written, and goes on from there.

    Args:
        error: What was raised; None if that is not known.
    """
    return f"{mend(error)}, and type the same command again to continue"
