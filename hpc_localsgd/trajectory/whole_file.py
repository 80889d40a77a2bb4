"""Put a file into its place when it is complete: a job that is killed leaves the one before."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_AWAY = (errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)
REFUSED = (*FULL, *_AWAY, errno.EFBIG, errno.EIO, errno.EROFS)  # by the disk
ENDS = (signal.SIGTERM, signal.SIGHUP)  # that end a process before it comes to a `finally`
_unborn: set[Path] = set()
os.register_at_fork(after_in_child=_unborn.clear)  # they are the parent's


def sync(descriptor: int) -> None:
    """Put what was written to an open file on the disk, as far as its file system can.

    A file server takes what is written into memory first: that a quota is used up, or a disk has
    failed, is said here, or nowhere. Where a host goes down, what was not put on the disk is lost.

    Args:
        descriptor: Of the file.

    Raises:
        OSError: The disk refuses.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


@contextmanager
def put_whole(path: Path) -> Iterator[Path]:
    """Write a file under another name, and then give it its own; nothing is left if that fails.

    Nor if a signal ends the process meanwhile, SIGKILL excepted.

    Args:
        path: Of the file; what is there is replaced.

    Yields:
        The name to write to, in the same folder.

    Raises:
        OSError: The disk refuses; it names the file, whatever the libraries that write it made
            of that.
    """
    unborn = path.with_name(f".{path.name}.{os.getpid()}.new")
    _unborn.add(unborn)
    try:
        with _clean_end():
            yield unborn
            os.replace(unborn, path)
    except Exception as error:
        number = _refusal(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        unborn.unlink(missing_ok=True)
        _unborn.discard(unborn)


def _refusal(error: BaseException | None) -> int | None:
    """Return why the disk refused, if that is behind an error: others follow from it."""
    while error is not None:
        if isinstance(error, OSError | RuntimeError) and (number := number_of(error)) in REFUSED:
            return number
        error = error.__cause__ or error.__context__
    return None


def number_of(error: BaseException | None) -> int | None:
    """Return the system's number of an error, which HDF5 may say in its text alone.

    Args:
        error: What was raised; None if that is not known.
    """
    said = re.search(r"errno = (\d+)", str(error))
    number = getattr(error, "errno", None)
    return int(said[1]) if number is None and said else number


def leave_nothing() -> None:
    """Remove what is being written, for a process that ends without a `finally`."""
    for unborn in list(_unborn):
        with suppress(OSError):
            unborn.unlink(missing_ok=True)


@contextmanager
def _clean_end() -> Iterator[None]:
    """Let signals that end this process remove what is being written first.

    Only those that nobody else handles, and only as long as a file is being written: a handler of
    Python's would not be heard while a rank waits in an exchange.
    """
    main = threading.current_thread() is threading.main_thread()
    ours = [n for n in ENDS if main and signal.getsignal(n) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    leave_nothing()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
