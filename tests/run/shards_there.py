"""One of n ranks without the others, and folders of checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_localsgd.run.checkpoint import Checkpoints, RankCheckpoint
from hpc_localsgd.run.checkpoint.listing import (
    all_folders,
    number,
)
from hpc_localsgd.worlds.placement import Placement

R = 3


@dataclass
class Ranks:
    """One of n ranks of R workers; what the others tell is made of what this one tells.

    Attributes:
        others: The rows of the next rank from those of this one.
        told: What this one told, in order.
    """

    rank: int = 0
    n: int = 2
    others: Callable[[np.ndarray], np.ndarray] = lambda v: v

    def __post_init__(self) -> None:
        self.K, self.R = R * self.n, R
        self.local_workers = range(R * self.rank, R * (self.rank + 1))
        self.placement, self.device = Placement(self.K, self.n), torch.device("cpu")
        self.told: list[np.ndarray] = []

    def gather(self, v: np.ndarray) -> np.ndarray:
        assert len(v) == R
        self.told.append(v)
        return np.concatenate([v, *[self.others(v)] * (self.n - 1)])


def at(out: Path, world: Any, **given: Any) -> Checkpoints:
    return Checkpoints(out, world, **given)


def there(out: Path, after: int, ranks: Any, n: int) -> Path:
    """A checkpoint's folder with the (empty) shards of some of n ranks."""
    folder = out / "checkpoints" / f"step-{after:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    for rank in ranks:
        (folder / f"rank-{rank}-of-{n}.pt").touch()
    return folder


def steps(out: Path) -> list[int]:
    return [number(folder) for folder in all_folders(out / "checkpoints")]


def place(after: int, t: int, rows: int = R) -> RankCheckpoint:
    return RankCheckpoint(
        after, t, {"place": {"t": t}, "after": after, "x": torch.full((rows, 2), float(t))}
    )


def saved(out: Path, *afters: int, n: int = 2, rows: int = R, digest: str = "") -> None:
    for after in afters:
        for rank in range(n):
            at(out, Ranks(rank, n), digest=digest).save(place(after, after + rank, rows))
