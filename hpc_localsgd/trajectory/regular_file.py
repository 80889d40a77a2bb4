"""Files that end: what is read whole is a regular file of a size that can be meant.

A pipe is waited for, `/dev/zero` is read until memory is full, and a sparse file of a terabyte
costs its author nothing. A name says nothing of it, and a link may lead to any of them.
"""

from __future__ import annotations

import errno
import os
import stat
from os import PathLike

Named = str | PathLike[str]


def read(path: Named, at_most: int) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: Of the file; links are followed.
        at_most: Bytes it may have.

    Raises:
        OSError: It cannot be opened or read, is not a regular file, or is larger; `strerror` says
            which in words.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # no wait for a writer
    with os.fdopen(descriptor, "rb") as file:
        _check(os.fstat(descriptor), path, at_most)
        return file.read(at_most + 1)


def check(path: Named, at_most: int) -> None:
    """Refuse what others are to read, as `read` does, without opening it.

    Raises:
        OSError: As in `read`.
    """
    _check(os.stat(path), path, at_most)


def _check(found: os.stat_result, path: Named, at_most: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        said = "it is a device or a pipe, which may have no end"
        raise OSError(errno.EINVAL, said, str(path))
    if found.st_size > at_most:
        said = f"it has {found.st_size:,} bytes, and at most {at_most:,} are read"
        raise OSError(errno.EFBIG, said, str(path))
