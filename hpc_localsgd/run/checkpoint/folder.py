"""The shards of a run in `<out>/checkpoints`: which of them count, how many stay."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.errors import ConfigurationError, DataError
from hpc_localsgd.run.checkpoint import resharding, shard
from hpc_localsgd.run.checkpoint.listing import (
    all_folders,
    is_complete,
    never_there,
    number,
    shard_name,
    whole,
)
from hpc_localsgd.run.checkpoint.rank_checkpoint import DRAWN_ANEW, RankCheckpoint
from hpc_localsgd.run.stderr import say
from hpc_localsgd.worlds.placement import Placement

if TYPE_CHECKING:
    from hpc_localsgd.worlds.base import World

PARTIAL = 16  # newer than the last that is complete, at most
_LOOKED_AT = 64  # folders, at most, from the newest back
# A shard that is not what was written; of another configuration; of other workers; out of reach.
_DAMAGED, _OTHER, _WORKERS, _UNREAD = 1, 2, 3, 4

# A shard that is damaged, or that holds what does not fit the others
_STRANGE = (shard.DamagedShard, RuntimeError, LookupError, TypeError, ValueError, AttributeError)


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
        self._lost = ""  # why what the model drew is not of one worker

    @classmethod
    def in_folder(cls, folder: Path, like: Checkpoints) -> Checkpoints:
        """Return the same checkpoints in another folder."""
        made = cls(folder.parent, like.world, like.keep, like.digest, like.also)
        made.folder = folder
        return made

    def save(self, place: RankCheckpoint) -> Path:
        """Write this rank's shard now.

        Raises:
            OSError: It could not be written; what was there before still is.
        """
        path = self.folder_of(place.after) / shard_name(self.world.rank, self.world.n)
        shard.write(path, {**place.state, "digest": self.digest})
        return path

    def load(self) -> RankCheckpoint:
        """Return this rank's place in the newest checkpoint, of however many ranks. All together.

        Raises:
            ConfigurationError: There is none, or it is of other workers, or of another
                configuration; on all ranks alike.
            DataError: One could not be read; on all ranks alike. It may be sound: nothing is
                changed, and the job can be tried again.
        """
        world = self.world
        for after, n in self._of_rank_0(self.complete()):
            place, why = self._read(after, n)
            worse = world.gather(np.full(world.R, why))
            if (worse == _OTHER).any():
                raise ConfigurationError(
                    f"{self.folder_of(after)} is of a run with another configuration: "
                    "give another --out, or --overwrite"
                )
            if (worse == _WORKERS).any():
                raise ConfigurationError(
                    f"{self.folder_of(after)} is not of {world.K} workers: give as many as "
                    "there were, or add --resume-from-mean to start from the mean of theirs"
                )
            if (worse == _UNREAD).any():
                raise DataError(f"{self.folder_of(after)} could not be read: {self._why}")
            if not (worse == _DAMAGED).any():
                assert place is not None
                self._forget_newer_than(after)
                self._say_moved(n)
                return place
            bad = sorted({world.placement.rank_of(int(k)) for k in np.flatnonzero(worse)})
            self._say(f"{self.folder_of(after)} is damaged (ranks {bad}): trying an older one")
        raise ConfigurationError(self._nothing())

    def complete(self) -> list[tuple[int, int]]:
        """Return step and number of ranks of the checkpoints with all shards, newest first."""
        return [(number(f), n) for f in reversed(self._all()) for n in whole(f)]

    def is_whole(self, after: int, since_ns: int = 0) -> bool:
        """Return whether all shards exist, none written before a time of the file system."""
        folder = self.folder_of(after)
        try:  # no further than to the first that is missing: all ranks ask, many times
            shards_of_ranks = (folder / shard_name(r, self.world.n) for r in range(self.world.n))
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
        good = [f for f in everything if is_complete(f)]
        oldest = number(good[-self.keep]) if len(good) > self.keep else 0
        too_old = [f for f in everything if number(f) < oldest]
        behind = [f for f in everything if not good or number(f) > number(good[-1])]
        silent = never_there(behind) if len(behind) > PARTIAL and not self._told else []
        if silent:
            self._told = True
            ranks = ", ".join(map(str, silent[:8]))
            self._say(
                f"no checkpoint has become complete since step {number(good[-1]) if good else 0}:"
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
        self.world.gather(np.zeros(self.world.R))  # no rank writes before it is done

    def _read(self, after: int, n: int) -> tuple[RankCheckpoint | None, int]:
        """Return this rank's place in a checkpoint of n ranks, and what is wrong with it."""
        world, folder = self.world, self.folder_of(after)
        try:
            then = Placement(world.K, n)
            parts = resharding.of_workers(world.local_workers, folder, then)
            ours = all(part.get("digest") in (self.digest, *self.also) for part in parts)
            moved = n != world.n
            state = resharding.joined(parts, world.device) if moved else parts[0]
            self._lost = resharding.lost_draws(parts) if moved else ""
        except (resharding.OtherWorkers, ConfigurationError):
            return None, _WORKERS
        except OSError as error:
            self._why = str(error)
            return None, _UNREAD
        except _STRANGE:
            return None, _DAMAGED
        return (RankCheckpoint.saved(state), 0) if ours else (None, _OTHER)

    def _of_rank_0(self, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return rank 0's list on all ranks: file systems may show each rank a different one."""
        rows = np.full((_LOOKED_AT, 2), -1)
        rows[: len(found)] = np.array(found[:_LOOKED_AT]).reshape(-1, 2)
        listed = self.world.gather(np.tile(rows, (self.world.R, 1, 1)))[0]
        return [(int(after), int(n)) for after, n in listed if after >= 0]

    def _say_moved(self, n: int) -> None:
        """Say, in one line, that the run goes on where its workers lie on other ranks."""
        if n != self.world.n:
            self._say(
                f"the checkpoint is of {n} rank{'s' * (n > 1)} and this job has {self.world.n}: "
                f"the same {self.world.K} workers continue, {self.world.placement}"
                + (f"; {DRAWN_ANEW}{self._lost}" if self._lost else "")
            )

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
        self.world.gather(np.zeros(self.world.R))  # no rank writes before it is done

    def _nothing(self) -> str:
        if self.complete():
            return (
                f"every checkpoint in {self.folder} is damaged: put back a copy, or leave "
                "--resume out and start over with --overwrite"
            )
        return (
            f"nothing to resume: no complete checkpoint in {self.folder}; "
            "leave --resume out to start over, with --overwrite to replace what is there, or use "
            "--resume auto"
        )

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
