"""Whether the folder of a run is one folder for all its ranks, and takes what they write."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.engine.agreement import agree, hosts_of
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run import lease
from hpc_localsgd.run.run_lock import RunLock
from hpc_localsgd.trajectory.diskspace import mend, why
from hpc_localsgd.worlds.gather_texts import gather_texts

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

SEEN_WITHIN_S = 10.0  # a host may have to ask its file server
WORD_BYTES = 16  # of a claim
UNSEEN = -1  # else the number of an error; 0 for none
NAMED = 8  # hosts, at most


@contextmanager
def held(world: World, out: Path) -> Iterator[RunLock | None]:
    """Hold the folder of a run on rank 0, and check that all ranks see it. All ranks together.

    When the block fails the folder is given back; when it ends well its owner does that.

    Yields:
        The claim on rank 0; None on the others.

    Raises:
        ConfigurationError: A run is in progress in it, or a rank does not see it or cannot write to
            it; on all ranks alike.
    """
    lock: RunLock | None = None

    def take() -> RunLock | None:
        nonlocal lock  # held by this rank, whatever another one says
        lock = RunLock(out) if world.rank == 0 else None
        return lock

    try:
        agree(world, take)
        check_shared(world, out, lock.run if lock else "")
        yield lock
    except BaseException:
        if lock is not None:
            lock.end()
        raise


def check_shared(world: World, out: Path, run: str) -> None:
    """Check that every rank sees rank 0's claim in the folder, and can write beside it.

    Args:
        world: The ranks.
        out: The folder.
        run: The word of the claim, on rank 0.

    Raises:
        ConfigurationError: Names the hosts that do not, and what to do; on all ranks alike.
    """
    found = _found(out, gather_texts(world, run, WORD_BYTES)[0], world.rank)
    codes = world.gather(np.full(world.R, found))
    if not codes.any():
        return
    hosts, leaders = hosts_of(world), world.placement.leaders
    first = int(codes[np.flatnonzero(codes)[0]])
    ranks = np.flatnonzero(codes[leaders] == first)
    where = ", ".join(f"rank {r} on {hosts[leaders[r]]}" for r in ranks[:NAMED])
    more = f" and {len(ranks) - NAMED} more" if len(ranks) > NAMED else ""
    raise ConfigurationError(_complaint(out, first, f"{where}{more}", hosts[0]))


def _found(out: Path, run: str, rank: int) -> int:
    """Return what this rank finds: 0, UNSEEN, or the number of the error when it writes."""
    until = time.monotonic() + SEEN_WITHIN_S
    while (claim := lease.read(out / "RUNNING")[1]) is None or claim.run != run:
        if time.monotonic() > until:
            return UNSEEN
        time.sleep(0.1)
    probe = out / f".writable-{rank}"
    try:
        probe.write_bytes(b"x" * os.statvfs(out).f_bsize)
    except OSError as error:
        return error.errno or EIO
    finally:
        _remove(probe)
    return 0


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:  # where nothing can be written nothing is there
        pass


def _complaint(out: Path, code: int, where: str, first_host: str) -> str:
    if code == UNSEEN:
        return (
            f"--out {out.absolute()} is not one folder for all ranks: {where} does not find there "
            f"what rank 0 on {first_host} has just written. Give a folder that all hosts share"
        )
    error = OSError(code, os.strerror(code))
    return f"{where} cannot write to --out {out.absolute()}: {why(error)}: {mend(error)}"
