"""Checkpoints: every rank writes its own shard, by atomic rename, without asking the others.

    checkpoints/step-00001200/rank-2-of-4.pt

A checkpoint counts when all its shards are there, which their names tell; a job that dies while
writing leaves the previous one untouched.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hpc_localsgd.types import ConfigurationError
from hpc_localsgd.worlds.pending import Pending

if TYPE_CHECKING:
    from hpc_localsgd.loop import Position, Run

_FOLDER = re.compile(r"step-(\d+)")


class Checkpoints:
    """The checkpoints of a run in `<out>/checkpoints`.

    Attributes:
        folder: Where they are.
        every: Cadence in steps; kept at the first round end after each multiple. 0: only the end.
        keep: How many to keep.
        digest: Of the configuration; a checkpoint of another one is refused.
    """

    def __init__(self, out: Path, run: Run, every: int, keep: int = 2, digest: str = "") -> None:
        self.folder, self.run, self.every, self.keep = out / "checkpoints", run, every, keep
        self.digest = digest

    def due(self, p: Position) -> bool:
        """Whether to keep one at the end of this round; all ranks agree."""
        crossed = self.every > 0 and p.t // self.every > p.begin // self.every
        return crossed or p.t == self.run.steps

    def save(self, p: Position) -> None:
        """Write this rank's shard now, and let go of checkpoints that are no longer needed."""
        folder = self.folder / f"step-{p.t:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self._shard()
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(self._state(p), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        self._tidy()

    def load(self, p: Position) -> Position:
        """The position of the latest complete checkpoint; also restores optimiser and buffers.

        No collective: what the algorithm had under way is begun anew by `Algorithm.resume`, once
        all ranks have found their shard.

        Raises:
            ConfigurationError: There is none, or it is of another number of ranks or workers.
        """
        path = self._latest() / self._shard()
        state = torch.load(path, map_location=self.run.world.device, weights_only=True)
        if state["digest"] != self.digest:
            raise ConfigurationError(
                f"{path} is of a run with another configuration: give another --out, or --overwrite"
            )
        p.x.copy_(state["x"])
        self.run.task.buffers.copy_(state["buffers"])
        self.run.task.load_state_dict(state["task"])
        self.run.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        if self.run.world.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.run.world.device)
        p.sync = state["sync"]
        p.t, p.s, p.begin, p.end = (int(state[name]) for name in ("t", "s", "begin", "end"))
        return p

    def _state(self, p: Position) -> dict[str, Any]:
        device = self.run.world.device
        return {
            "digest": self.digest,
            "t": p.t,
            "s": p.s,
            "begin": p.begin,
            "end": p.end,
            "x": p.x,
            "sync": {k: v for k, v in p.sync.items() if not isinstance(v, Pending)},
            "buffers": self.run.task.buffers,
            "task": self.run.task.state_dict(),
            "optimizer": self.run.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def _shard(self) -> str:
        return f"rank-{self.run.world.rank}-of-{self.run.world.n}.pt"

    def _latest(self) -> Path:
        n = self.run.world.n
        complete = [f for f in self._all() if _shards(f) == n == _expected(f)]
        if complete:
            return complete[-1]
        others = sorted({_expected(f) for f in self._all() if _shards(f) == _expected(f)})
        if others:
            raise ConfigurationError(
                f"the checkpoints in {self.folder} are of {others} ranks and this job has {n}: "
                f"start {others[-1]} ranks to resume"
            )
        raise ConfigurationError(
            f"nothing to resume: no complete checkpoint in {self.folder}; "
            "leave --resume out to start anew, with --overwrite to replace what is there"
        )

    def _all(self) -> list[Path]:
        """Folders of checkpoints, complete or not, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(f for f in self.folder.iterdir() if _FOLDER.fullmatch(f.name))

    def _tidy(self) -> None:
        """Rank 0 removes what is older than the last `keep` complete checkpoints."""
        if self.run.world.rank != 0:
            return
        complete = [f for f in self._all() if _shards(f) == _expected(f)]
        for folder in self._all():
            if len(complete) > self.keep and folder < complete[-self.keep]:
                shutil.rmtree(folder, ignore_errors=True)


def _shards(folder: Path) -> int:
    """How many shards are there."""
    return len(list(folder.glob("rank-*-of-*.pt")))


def _expected(folder: Path) -> int:
    """How many shards a complete checkpoint has, from the name of any of them; -1 if none."""
    for path in folder.glob("rank-*-of-*.pt"):
        return int(path.stem.rsplit("-", 1)[1])
    return -1
