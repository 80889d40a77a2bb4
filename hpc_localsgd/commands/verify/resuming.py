"""A run saved in the middle of a round and resumed, against one that was never interrupted."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.commands.verify.harness import Harness, anywhere, different
from hpc_localsgd.commands.verify.trial import SAVED_AT, STEPS, Trial, resumed
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory.diskspace import promise
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.gather_texts import gather_texts

TITLE = f"Saved after step {SAVED_AT} of {STEPS} and resumed: numbers that differ in any bit"
SPACE_BYTES = 8 << 20  # more than all places take
SEEN_WITHIN_S = 2.0  # network file systems show new folders late
LONGEST_NAME = 1024


def check_resume(bench: Harness, check: str, algorithms: Mapping[str, Algorithm]) -> None:
    """Check, in one row, that each of these algorithms resumes where every rank saved it."""
    bench.check(TITLE, check, 0, partial(_differing, bench, algorithms))


def _differing(bench: Harness, algorithms: Mapping[str, Algorithm]) -> tuple[float, str]:
    """Return how much the resumed algorithms differ; each was saved by every rank while it ran."""
    if bench.folder is None:
        raise ConfigurationError(
            "no folder that all ranks can write to, with some space: start in one"
        )
    counts = {}
    for name, algorithm in algorithms.items():
        whole = bench.outcome(algorithm)
        folder = bench.folder_of(algorithm)
        assert folder is not None
        x = resumed(Trial(bench.problem, algorithm), bench.world, folder)
        counts[name] = different(x, whole.x)
    return sum(counts.values()), ", ".join(f"{name}: {n}" for name, n in counts.items() if n)


@contextmanager
def shared_folder(world: World) -> Iterator[Path | None]:
    """Make a temporary folder that all ranks see, and remove it afterwards. All ranks together.

    None if neither the system's temporary folder nor the current one is shared and has space.
    """
    folder = _made(world, tempfile.gettempdir()) or _made(world, ".")
    try:
        yield folder
        anywhere(world, True)  # all have done with it
    finally:
        if world.rank == 0 and folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _made(world: World, parent: str) -> Path | None:
    """Return a new folder of rank 0 that all ranks see; None if there is none."""
    name = ""
    if world.rank == 0:
        try:
            name = tempfile.mkdtemp(prefix="verify-", dir=Path(parent).resolve())
            promise(Path(name) / "space", SPACE_BYTES)
        except OSError:
            shutil.rmtree(name, ignore_errors=True)
            name = ""
    folder = Path(gather_texts(world, name, LONGEST_NAME)[0])
    seen = bool(folder.name) and _appears(folder)
    if not anywhere(world, not seen):
        return folder
    if name:
        shutil.rmtree(name, ignore_errors=True)
    return None


def _appears(folder: Path) -> bool:
    until = time.monotonic() + SEEN_WITHIN_S
    while not folder.is_dir():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
