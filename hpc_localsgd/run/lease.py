"""What stands in `<out>/RUNNING`: whose run it is, and how often its owner has said so again."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path

BYTES = 512  # of the file, always: it is rewritten in place, which takes no space of a full disk
KINDS = {"host": str, "process": int, "run": str, "reach": str, "beat": int}
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Lease:
    """One process's claim to a folder.

    Attributes:
        host: Where it runs.
        process: Its number there.
        run: A word that no other claim has.
        reach: The kernel and the mount through which it holds the file: within them the lock of
            the file system is always seen.
        beat: How often it was renewed.
    """

    host: str
    process: int
    run: str
    reach: str
    beat: int = 0

    @classmethod
    def of_this_process(cls, descriptor: int) -> Lease:
        """Make a claim held through an open file."""
        run = os.urandom(8).hex()
        return cls(socket.gethostname()[:200], os.getpid(), run, reach_of(descriptor))

    def renewed(self) -> Lease:
        """Return the same claim, renewed."""
        return replace(self, beat=self.beat + 1)

    def write(self, descriptor: int) -> None:
        """Replace the content of an open file by this claim.

        Raises:
            OSError: The disk refuses.
        """
        os.pwrite(descriptor, json.dumps(vars(self)).encode().ljust(BYTES), 0)
        os.fsync(descriptor)


def read(file: Path) -> tuple[bytes, Lease | None]:
    """Return the content of a file and the claim in it; None for what is missing."""
    raw = _uncached(file)
    try:
        said = json.loads(raw)
        values = {name: said[name] for name in KINDS}
        if all(type(values[name]) is kind for name, kind in KINDS.items()):
            return raw, Lease(**values)
        return raw, None
    except (ValueError, KeyError, TypeError):
        return raw, None


def _uncached(file: Path) -> bytes:
    """Return a file's first bytes, past this host's cache where the file system allows."""
    for flag in (getattr(os, "O_DIRECT", 0), 0):
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | flag)
        except FileNotFoundError:
            return b""
        except OSError:
            continue
        try:
            buffer = mmap.mmap(-1, 4096)  # aligned, as O_DIRECT wants it
            got = os.preadv(descriptor, [buffer], 0)
            return bytes(buffer[: min(got, BYTES)])
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return b""


def reach_of(descriptor: int) -> str:
    """Return this kernel and the mount of an open file, equal in all containers of a machine."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        kernel = socket.gethostname()
    return f"{kernel}:{os.fstat(descriptor).st_dev}"


def lock(descriptor: int) -> bool | None:
    """Lock an open file; return whether that worked, None where locks do not exist."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def is_at(file: Path, descriptor: int) -> bool:
    """Return whether a path still names an open file."""
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except OSError:
        return False
