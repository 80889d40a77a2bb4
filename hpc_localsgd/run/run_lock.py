"""One run at a time in a folder: rank 0 holds `<out>/RUNNING`, and a second job is told who does.

A second job would mix its record and its checkpoints with those of the first, and destroy both.
What is relied on:

- An exclusive name. The file is made and locked under a name of its own, then linked to RUNNING:
  of several that come at one moment one succeeds, on every file system that has hard links, NFS
  included (elsewhere it is created exclusively). It is never seen empty.
- The lock of the file system (flock) on it, which the kernel lets go when its process ends, however
  that ends, a zombie included. It is seen by all processes of a machine, whatever containers they
  are in; between hosts on NFS, Lustre mounted with `flock`, GPFS, CephFS.
- Where the file is of another host or mount, which such a lock may not reach (sshfs, Lustre without
  `flock`): its owner rewrites it every 5 s. It is read again, past the caches, for longer than such
  a cache lasts; dates are not looked at. Who takes the place of a silent one looks again a moment
  later, and gives way if another did the same. A host that died may hold its lock for a while (90 s
  on NFSv4): that is waited for.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run import lease
from hpc_localsgd.run.lease import Lease
from hpc_localsgd.run.stderr import say
from hpc_localsgd.run.stopping import before_end
from hpc_localsgd.trajectory.whole_file import leave_nothing

RENEWED_EVERY_S = 5.0
WATCHED_FOR_S = 30.0  # a run that a lock may not reach; sshfs caches for 20 s
HELD_FOR_S = 150.0  # until a server lets go the lock of a host that died
SETTLED_S = 2.0  # after taking the place of a silent run, for others that do the same
BORN_WITHIN_S = 0.5
ENDED_WITHIN_S = 5.0  # a file server that hangs must not keep a process from ending
TRIES = 100
_ours: dict[str, RunLock] = {}  # of this process, by their words


class RunLock:
    """The claim of this process to the folder of a run.

    Attributes:
        run: A word that only this claim has.
        file: `<out>/RUNNING`.
    """

    def __init__(self, out: Path) -> None:
        """Take the folder, which is made if it is not there.

        Raises:
            ConfigurationError: Another run is in progress in it, or it cannot be written.
        """
        self.file = out / "RUNNING"
        self._lease: Lease
        self._renewed_s = time.monotonic()
        self._turn = threading.RLock()  # one thread renews, another ends
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._take()
        except OSError as error:
            raise ConfigurationError(
                f"cannot write to --out {out}: {error.strerror}; give another folder"
            ) from error
        _ours[self.run] = self
        before_end.update((self.end, leave_nothing))

    @property
    def run(self) -> str:
        """Token of this claim."""
        return self._lease.run

    def renew(self) -> bool:
        """Renew the claim; return whether the folder is still this run's. Call it often."""
        if time.monotonic() - self._renewed_s < RENEWED_EVERY_S:
            return True
        with self._turn:  # its number may be another file's as soon as it is closed
            if self._descriptor < 0:
                return True
            self._renewed_s = time.monotonic()
            self._lease = self._lease.renewed()
            with suppress(OSError):  # a disk that refuses says so elsewhere
                self._lease.write(self._descriptor)
            found = lease.read(self.file)[1]  # none: it was removed by hand
            return found is None or found.run == self.run

    def end(self) -> None:
        """Release the folder, once."""
        before_end.discard(self.end)
        if not self._turn.acquire(timeout=ENDED_WITHIN_S):
            return  # the end of the process lets go the lock
        try:
            if self._descriptor >= 0:
                self._give_back()
        finally:
            self._turn.release()

    def _give_back(self) -> None:
        found = lease.read(self.file)[1]
        if found is not None and found.run == self.run:
            with suppress(OSError):
                self.file.unlink()
        _ours.pop(self.run, None)
        os.close(self._descriptor)
        self._descriptor = -1

    def _take(self) -> int:
        unsure = False
        for _ in range(TRIES):
            descriptor = self._make()
            if descriptor is None:
                unsure = self._clear_the_way() or unsure
                continue
            if unsure:
                self._settle(descriptor)
            return descriptor
        raise ConfigurationError(f"other processes keep making and removing {self.file}")

    def _make(self) -> int | None:
        """Make the file, with a claim in it, and lock it; return None if it exists."""
        own = self.file.with_name(f".RUNNING-{os.getpid()}-{os.urandom(4).hex()}")
        descriptor = self._claimed(own)
        try:
            os.link(own, self.file)
            return descriptor
        except FileExistsError:
            # On NFS the answer may be lost after it was done, and asked for again.
            if os.fstat(descriptor).st_nlink == 2:
                return descriptor
            os.close(descriptor)
            return None
        except OSError:  # no hard links here
            os.close(descriptor)
        finally:
            own.unlink(missing_ok=True)
        try:
            descriptor = self._claimed(self.file)
        except FileExistsError:
            return None
        # Another process may have locked it first, as one that was left behind.
        if lease.lock(descriptor) is not False and lease.is_at(self.file, descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def _claimed(self, file: Path) -> int:
        """Make a new file, locked, with a claim of this process in it.

        Raises:
            OSError: It is there, or cannot be written.
        """
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            lease.lock(descriptor)
            self._lease = Lease.of_this_process(descriptor)
            self._lease.write(descriptor)
        except BaseException:
            os.close(descriptor)
            file.unlink(missing_ok=True)
            raise
        return descriptor

    def _clear_the_way(self) -> bool:
        """Remove the file of a run that is gone; return whether others might remove it now too.

        Raises:
            ConfigurationError: It is not gone.
        """
        found = lease.read(self.file)[1]
        if found is not None and found.run in _ours:  # a job of this process, left without an end
            _ours[found.run].end()
            return False
        try:
            descriptor = os.open(self.file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return self._unlocked(descriptor)
        finally:
            os.close(descriptor)

    def _unlocked(self, descriptor: int) -> bool:
        """Do as `_clear_the_way`, for an open file."""
        before, found = lease.read(self.file)
        locked = lease.lock(descriptor)  # None: there are no locks here
        near = found is not None and found.reach == lease.reach_of(descriptor)
        if not lease.is_at(self.file, descriptor):
            return False  # it went, or another took it: look again
        if near and locked is False:  # its owner lives, on this machine
            self._refuse_unless_gone(descriptor)
            return False
        torn = found is None and bool(before)
        if found is None:
            far = torn and locked is None  # nothing tells whose it is, and no lock whether it lives
        else:
            far = not (near and locked)  # of another machine, or where locks do not exist
        if far or locked is False:
            self._watch(before, descriptor, locked is not False)
        elif not before:
            time.sleep(BORN_WITHIN_S)  # where there are no hard links it is empty for a moment
        if lease.read(self.file)[0] == before:
            self.file.unlink(missing_ok=True)
        return far

    def _refuse_unless_gone(self, descriptor: int) -> None:
        """Refuse if the lock's holder lives, unless it is only clearing the way, as we would."""
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            time.sleep(0.05)
            if not lease.is_at(self.file, descriptor):
                return
        self._refuse()

    def _watch(self, before: bytes, descriptor: int, ours: bool) -> None:
        """Wait to see whether a run that a lock may not reach still renews its claim.

        Raises:
            ConfigurationError: It does, or its lock is still held long after.
        """
        found = lease.read(self.file)[1]
        where = found.host if found else "an unknown host"
        say(f"{self.file} is of {where}: waiting {WATCHED_FOR_S:.0f} s to see if it still runs")
        began = time.monotonic()
        while not ours or time.monotonic() - began < WATCHED_FOR_S:
            time.sleep(0.5)
            now = lease.read(self.file)[0]
            if now != before:
                if now:
                    self._refuse()
                return
            ours = ours or lease.lock(descriptor) is True
            if not ours and time.monotonic() - began > HELD_FOR_S:
                self._refuse()

    def _settle(self, descriptor: int) -> None:
        """Give way if another claimed the folder of the same silent run at the same moment."""
        time.sleep(SETTLED_S)
        found = lease.read(self.file)[1]
        if found is None or found.run != self.run:
            os.close(descriptor)
            self._refuse()

    def _refuse(self) -> NoReturn:
        found, out = lease.read(self.file)[1], self.file.parent
        who = f"process {found.process} on {found.host}" if found else f"see {self.file}"
        raise ConfigurationError(
            f"a run is in progress in {out} ({who}): stop it with `touch {out / 'STOP'}`, or give "
            "another --out"
        )


def _let_go() -> None:
    """Close the lock in a forked child: it is the parent's, and must not outlive it."""
    for each in _ours.values():
        with suppress(OSError):
            os.close(each._descriptor)
    _ours.clear()
    before_end.clear()


os.register_at_fork(after_in_child=_let_go)
