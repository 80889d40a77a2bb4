"""The shards of a run in `<out>/checkpoints`: their names, which of them count, how many stay."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.run.checkpoint import shard
from hpc_localsgd.run.checkpoint.place import Place
from hpc_localsgd.run.messages import say
from hpc_localsgd.types import ConfigurationError, DataError

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

FOLDER = re.compile(r"step-(\d{1,18})")  # what fits a whole number of 64 bits
PARTIAL = 16  # newer than the last that is complete, at most
_LOOKED_AT = 64  # folders, at most, from the newest back
# A shard that is not what was written; of another configuration; of other workers; out of reach.
_DAMAGED, _OTHER, _WORKERS, _UNREAD = 1, 2, 3, 4


class Checkpoints:
    """The checkpoints of a run.

    Attributes:
        folder: Where they are.
        world: Who writes the shards.
        keep: How many complete ones stay.
        digest: Of the configuration; a checkpoint of another one is refused.
        also: Digests that earlier versions gave the same configuration.
    """

    def __init__(
        self,
        out: Path,
        world: World,
        keep: int = 2,
        digest: str = "",
        also: Collection[str] = (),
    ) -> None:
        self.folder, self.world, self.keep, self.digest = out / "checkpoints", world, keep, digest
        self.also = also
        self._why = "another rank could not"
        self._told = False  # that none becomes complete

    @classmethod
    def in_folder(cls, folder: Path, like: Checkpoints) -> Checkpoints:
        """Return the same checkpoints in another folder."""
        made = cls(folder.parent, like.world, like.keep, like.digest, like.also)
        made.folder = folder
        return made

    def save(self, place: Place) -> Path:
        """Write this rank's shard now.

        Raises:
            OSError: It could not be written; what was there before still is.
        """
        path = self.folder_of(place.after) / self._shard(self.world.rank)
        shard.write(path, {**place.state, "digest": self.digest})
        return path

    def load(self) -> Place:
        """Return this rank's place in the newest checkpoint that every rank has. All together.

        Raises:
            ConfigurationError: There is none, or it is of another number of ranks, or of another
                configuration; on all ranks alike.
            DataError: One could not be read; on all ranks alike. It may be sound: nothing is
                changed, and the job can be tried again.
        """
        n = self.world.n
        for after in self._of_rank_0(self.complete()):
            place, why = self._read(after)
            worse = self.world.gather(np.full(len(self.world.ranks), why))
            if (worse == _OTHER).any():
                raise ConfigurationError(
                    f"{self.folder_of(after)} is of a run with another configuration: "
                    "give another --out, or --overwrite"
                )
            if (worse == _WORKERS).any():
                raise ConfigurationError(
                    f"{self.folder_of(after)} is not of {self.world.size} workers on {n} ranks: "
                    "start as many as there were, or add --resume-from-mean to start from the mean "
                    "of theirs"
                )
            if (worse == _UNREAD).any():
                raise DataError(f"{self.folder_of(after)} could not be read: {self._why}")
            if not (worse == _DAMAGED).any():
                assert place is not None
                self._forget_newer_than(after)
                return place
            bad = sorted({self.world.dealing.rank_of(int(k)) for k in np.flatnonzero(worse)})
            self._say(f"{self.folder_of(after)} is damaged (ranks {bad}): trying an older one")
        raise ConfigurationError(self._nothing())

    def complete(self) -> list[int]:
        """Return the checkpoints of this number of ranks that have all shards, newest first."""
        n = self.world.n
        return [number(f) for f in reversed(self._all()) if shards(f) == n == expected(f)]

    def is_whole(self, after: int, since_ns: int = 0) -> bool:
        """Return whether all shards exist, none written before a time of the file system."""
        folder = self.folder_of(after)
        try:  # no further than to the first that is missing: all ranks ask, many times
            shards_of_ranks = (folder / self._shard(r) for r in range(self.world.n))
            return all(path.stat().st_mtime_ns >= since_ns for path in shards_of_ranks)
        except OSError:
            return False

    def folder_of(self, after: int) -> Path:
        """Return the folder of the checkpoints that follow the exchange after so many steps."""
        return self.folder / f"step-{after:08d}"

    def tidy(self) -> None:
        """Remove, on rank 0, what is older than the last `keep` complete checkpoints.

        Of later partial ones the newest few stay: where no checkpoint becomes complete, as a
        rank's disk refuses, they would be written without end.
        """
        if self.world.rank != 0:
            return
        everything = self._all()
        whole = [f for f in everything if is_complete(f)]
        too_old = [f for f in everything if len(whole) > self.keep and f < whole[-self.keep]]
        behind = [f for f in everything if not whole or f > whole[-1]]
        silent = never_there(behind) if len(behind) > PARTIAL and not self._told else []
        if silent:
            self._told = True
            ranks = ", ".join(map(str, silent[:8]))
            self._say(
                f"no checkpoint has become complete since step {number(whole[-1]) if whole else 0}:"
                f" the shards of rank {ranks} are missing in {self.folder}"
            )
        for folder in (*too_old, *behind[:-PARTIAL]):
            shutil.rmtree(folder, ignore_errors=True)

    def preserve(self, after: int) -> None:
        """Keep, on rank 0, a copy of a finished run's checkpoint that no later one displaces.

        Links, where the file system has them: a shard is never written to, but replaced.
        """
        if self.world.rank == 0:
            folder = self.folder_of(after)
            aside, made = (folder.with_name(f"{n}-{folder.name}") for n in ("finished", "making"))
            if not aside.exists():
                shutil.rmtree(made, ignore_errors=True)
                shutil.copytree(folder, made, copy_function=_linked)
                made.rename(aside)
        self.world.gather(np.zeros(len(self.world.ranks)))  # no rank writes before it is done

    def _read(self, after: int) -> tuple[Place | None, int]:
        """Return this rank's place, and what is wrong with it."""
        try:
            state = shard.read(self.folder_of(after) / self._shard(self.world.rank))
        except shard.DamagedShard:
            return None, _DAMAGED
        except OSError as error:
            self._why = str(error)
            return None, _UNREAD
        if len(state["x"]) != len(self.world.ranks):
            return None, _WORKERS
        ours = state.get("digest") in (self.digest, *self.also)
        return (Place.saved(state), 0) if ours else (None, _OTHER)

    def _of_rank_0(self, found: list[int]) -> list[int]:
        """Return rank 0's list on all ranks: file systems may show each rank a different one."""
        row = np.full(_LOOKED_AT, -1)
        row[: len(found)] = found[:_LOOKED_AT]
        listed = self.world.gather(np.tile(row, (len(self.world.ranks), 1)))[0]
        return [int(after) for after in listed if after >= 0]

    def _forget_newer_than(self, after: int) -> None:
        """Remove newer checkpoints that cannot be resumed, so that they do not mix with later ones.

        What is complete but damaged is renamed, not removed: a user may want to examine it.
        """
        if self.world.rank == 0:
            for folder in self._all():
                if number(folder) <= after:
                    continue
                aside = folder.with_name(f"damaged-{folder.name}")
                shutil.rmtree(aside, ignore_errors=True)
                if is_complete(folder):
                    folder.rename(aside)
                else:
                    shutil.rmtree(folder, ignore_errors=True)
        self.world.gather(np.zeros(len(self.world.ranks)))  # no rank writes before it is done

    def _nothing(self) -> str:
        n = self.world.n
        whole = [f for f in self._all() if is_complete(f)]
        others = sorted({expected(f) for f in whole} - {n})
        if self.complete():
            return (
                f"every checkpoint in {self.folder} is damaged: put back a copy, or leave "
                "--resume out and start over with --overwrite"
            )
        if others:
            return (
                f"the checkpoints in {self.folder} are of {others} ranks and this job has {n}: "
                f"start {others[-1]} ranks to resume, or add --resume-from-mean to start from the "
                "mean of their workers"
            )
        return (
            f"nothing to resume: no complete checkpoint in {self.folder}; "
            "leave --resume out to start over, with --overwrite to replace what is there, or use "
            "--resume auto"
        )

    def _shard(self, rank: int) -> str:
        return f"rank-{rank}-of-{self.world.n}.pt"

    def _all(self) -> list[Path]:
        return all_folders(self.folder)

    def _say(self, text: str) -> None:
        if self.world.rank == 0:
            say(text)


def _linked(source: str, to: str) -> None:
    """Link a file into another folder; copy it where links are impossible."""
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)


def all_folders(folder: Path) -> list[Path]:
    """Return the checkpoints in `<out>/checkpoints`, complete or not, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if FOLDER.fullmatch(f.name))


def number(folder: Path) -> int:
    """Return the step in the name of a checkpoint's folder."""
    return int(folder.name.rpartition("-")[2])


def shards(folder: Path) -> int:
    """Return the number of shards that exist."""
    return len(list(folder.glob("rank-*-of-*.pt")))


def expected(folder: Path) -> int:
    """Return the number of shards of a complete checkpoint, from any shard's name; -1 if none."""
    for path in folder.glob("rank-*-of-*.pt"):
        count = path.stem.rsplit("-", 1)[1]
        return int(count) if count.isdecimal() else -1
    return -1


def missing(folder: Path) -> list[int]:
    """Return the ranks whose shards are missing, from the names of the others."""
    there = {path.name for path in folder.glob("rank-*-of-*.pt")}
    n = expected(folder)
    return [r for r in range(n) if f"rank-{r}-of-{n}.pt" not in there]


def never_there(folders: list[Path]) -> list[int]:
    """Return the ranks that have no shard in any of these, though others have.

    In long rounds every rank saves by its own clock, so that shards of all may lie in turns.
    """
    lacking = [set(missing(f)) for f in folders if expected(f) > 0]
    return sorted(set.intersection(*lacking)) if lacking else []


def is_complete(folder: Path) -> bool:
    """Return whether a checkpoint has all its shards, of however many ranks."""
    return shards(folder) == expected(folder)


def all_complete(out: Path) -> list[tuple[Path, int]]:
    """Return the complete checkpoints of a run, newest first, with their numbers of ranks."""
    found = reversed(all_folders(out / "checkpoints"))
    return [(folder, expected(folder)) for folder in found if is_complete(folder)]


def last_complete(out: Path) -> tuple[Path, int] | None:
    """Return the newest of `all_complete`."""
    return next(iter(all_complete(out)), None)
