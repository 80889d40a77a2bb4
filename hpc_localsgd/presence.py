"""One run at a time in a folder: a run that is going on says so, and a second job sees it.

Rank 0 keeps `<out>/RUNNING`: its host, its process, and, as the date of the file, that it lives. A
second job would mix its record and its checkpoints with those of the first, and destroy both.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

from hpc_localsgd.stopping import changed_ns
from hpc_localsgd.types import ConfigurationError

RENEWED_EVERY_S = 5.0
WATCHED_FOR_S = 12.0  # a run of another host, whether it still renews the file


class Presence:
    """The file of the run of this process."""

    def __init__(self, out: Path) -> None:
        """Say that the run is in its folder, from now on."""
        self._file = out / "RUNNING"
        self._renewed_s = time.monotonic()
        self._file.write_text(json.dumps(_process()))

    def renew(self) -> None:
        """Say it again, now and then; as often as one likes."""
        if time.monotonic() - self._renewed_s < RENEWED_EVERY_S:
            return
        self._renewed_s = time.monotonic()
        try:
            os.utime(self._file)
        except OSError:  # whoever removed it has been told
            pass

    def end(self) -> None:
        """The run is over."""
        self._file.unlink(missing_ok=True)


def check_alone(out: Path) -> None:
    """Whether no other run is going on in a folder.

    Raises:
        ConfigurationError: One is.
    """
    file = out / "RUNNING"
    try:
        said = json.loads(file.read_text())
        host, process, began = said["host"], int(said["process"]), said["began"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # nobody, or nobody who can be asked
    if host != socket.gethostname():
        lives = _is_renewed(file, host)
    else:
        lives = process != os.getpid() and began != "" and _began(process) == began
    if lives:
        raise ConfigurationError(
            f"a run is going on in {out} (process {process} on {host}): stop it with `touch "
            f"{out / 'STOP'}`, or give another --out"
        )


def _is_renewed(file: Path, host: str) -> bool:
    """Whether the date of the file changes: clocks of two hosts are not compared."""
    before, until = changed_ns(file), time.monotonic() + WATCHED_FOR_S
    sys.stderr.write(f"{file} is of {host}: looking for {WATCHED_FOR_S:.0f} s whether it lives\n")
    while time.monotonic() < until and changed_ns(file) == before:
        time.sleep(0.5)
    return changed_ns(file) not in (before, 0)


def _process() -> dict[str, object]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "process": pid, "began": _began(pid)}


def _began(pid: int) -> str:
    """When a process began, in the system's ticks, as numbers are used again; empty if unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
