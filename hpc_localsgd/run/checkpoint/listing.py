"""Which checkpoints there are, and which of their shards, from the names of files alone.

    checkpoints/step-00001200/rank-2-of-4.pt

A folder may hold shards of several numbers of ranks: a run that went on with other ranks writes
its own beside those it came from.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = re.compile(r"step-(\d{1,18})")  # what fits a whole number of 64 bits
SHARD = re.compile(r"rank-(\d{1,9})-of-(\d{1,9})\.pt")


def shard_name(rank: int, n: int) -> str:
    """Return the name of a rank's shard, of n ranks."""
    return f"rank-{rank}-of-{n}.pt"


def all_folders(folder: Path) -> list[Path]:
    """Return the checkpoints in `<out>/checkpoints`, complete or not, oldest first."""
    if not folder.is_dir():
        return []
    found = (f for f in folder.iterdir() if FOLDER.fullmatch(f.name))
    return sorted(found, key=number)  # by text, step 99999999 would come after step 100000000


def number(folder: Path) -> int:
    """Return the step in the name of a checkpoint's folder."""
    return int(folder.name.rpartition("-")[2])


def there(folder: Path) -> dict[int, set[int]]:
    """Return number of ranks -> the ranks whose shards of such a checkpoint exist."""
    found: dict[int, set[int]] = {}
    for path in folder.glob("rank-*-of-*.pt"):
        if named := SHARD.fullmatch(path.name):
            rank, n = int(named[1]), int(named[2])
            found.setdefault(n, set()).add(rank)
    return {n: ranks for n, ranks in found.items() if ranks <= set(range(n))}


def whole(folder: Path) -> list[int]:
    """Return the numbers of ranks of which all shards exist, those written last first."""
    found = [n for n, ranks in there(folder).items() if len(ranks) == n]

    def oldest(n: int) -> int:
        try:
            return min((folder / shard_name(r, n)).stat().st_mtime_ns for r in range(n))
        except OSError:  # removed just now
            return 0

    return sorted(found, key=oldest, reverse=True) if len(found) > 1 else found


def expected(folder: Path) -> int:
    """Return the number of ranks of a checkpoint, complete or not; -1 if it has no shards."""
    return next(iter(whole(folder)), max(there(folder), default=-1))


def missing(folder: Path) -> list[int]:
    """Return the ranks whose shards are missing, from the names of the others."""
    n = expected(folder)
    have = there(folder).get(n, set())
    return [r for r in range(n) if r not in have]


def never_there(folders: list[Path]) -> list[int]:
    """Return the ranks that have no shard in any of these, though others have.

    In long rounds every rank saves by its own clock, so that shards of all may lie in turns.
    """
    lacking = [set(missing(f)) for f in folders if expected(f) > 0]
    return sorted(set.intersection(*lacking)) if lacking else []


def is_complete(folder: Path) -> bool:
    """Return whether a checkpoint has all its shards, of however many ranks."""
    return bool(whole(folder))


def all_complete(out: Path) -> list[tuple[Path, int]]:
    """Return the complete checkpoints of a run, newest first, with their numbers of ranks."""
    found = reversed(all_folders(out / "checkpoints"))
    return [(folder, n) for folder in found for n in whole(folder)]


def last_complete(out: Path) -> tuple[Path, int] | None:
    """Return the newest of `all_complete`."""
    return next(iter(all_complete(out)), None)
