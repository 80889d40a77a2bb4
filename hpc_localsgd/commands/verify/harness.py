"""Where checks are made: a world, a problem, and the rows found so far."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.commands.verify.problem import Problem
from hpc_localsgd.commands.verify.rows import OK, Row
from hpc_localsgd.commands.verify.trial import Outcome, Trial, finished, schedule_for
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.run.finished_rounds import Diverged
from hpc_localsgd.schedules.local_steps import Schedule
from hpc_localsgd.worlds.base import World

Measure = Callable[[], float | tuple[float, str]]  # a number, and a note for when it is too large


@dataclass
class Harness:
    """A world and a problem; all ranks call every method together.

    Attributes:
        world: Where the workers live.
        problem: What they train.
        folder: Where checkpoints are kept; None if there is none that all ranks see.
    """

    world: World
    problem: Problem
    folder: Path | None = None
    _rows: list[Row] = field(default_factory=list)  # with the numbers of this rank
    _outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)

    def check(
        self, group: str, check: str, limit: float, measure: Measure, where: str = ""
    ) -> None:
        """Add a row: a number of this rank that must not be above the limit.

        What all ranks refuse alike fails the row; any other exception does if there is one rank,
        and otherwise ends the job, since the others may be waiting for this one.
        """
        alike = Exception if self.world.n == 1 else (ConfigurationError, Diverged)
        try:
            found = measure()
        except alike as error:
            found = (math.nan, f"{type(error).__name__}: {error}")
        number, note = found if isinstance(found, tuple) else (found, "")
        self._rows.append(Row(group, check, where or self.name, float(number), limit, note))

    def inform(self, group: str, check: str, number: float) -> None:
        """Add a row that cannot fail."""
        self._rows.append(Row(group, check, self.name, number, None))

    def skip(self, group: str, check: str, why: str, where: str = "") -> None:
        """Add a row without a number."""
        self._rows.append(Row(group, check, where or self.name, None, None, why))

    def rows(self) -> list[Row]:
        """Return the rows, each number the worst of all ranks; equal on every rank."""
        R = self.world.R
        own = [math.nan if row.number is None else row.number for row in self._rows]
        numbers = self.world.gather(np.tile(np.array(own), (R, 1)))
        numbers = numbers[self.world.placement.leaders]  # [ranks, rows]
        return [self._of_all(row, numbers[:, i]) for i, row in enumerate(self._rows)]

    def outcome(self, algorithm: Algorithm, schedule: Schedule | None = None) -> Outcome:
        """Return the end of a trial; each is run once, and saved on the way."""
        schedule = schedule or schedule_for(algorithm)
        key = (repr(algorithm), repr(schedule))
        if key not in self._outcomes:
            trial = Trial(self.problem, algorithm, schedule)
            folder = self.folder_of(algorithm, schedule)
            self._outcomes[key] = finished(trial, self.world, folder=folder)
        return self._outcomes[key]

    def folder_of(self, algorithm: Algorithm, schedule: Schedule | None = None) -> Path | None:
        """Return the folder of a trial's checkpoint."""
        if self.folder is None:
            return None
        said = f"{algorithm} {schedule or schedule_for(algorithm)}"
        return self.folder / hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Name of the world, in a word."""
        return type(self.world).__name__.lower()

    def _of_all(self, row: Row, numbers: np.ndarray) -> Row:
        """Return the row with the number of the worst rank, NaN counting as worst."""
        if row.number is None or row.limit is None:
            return row
        rank = int(np.argmax(np.where(np.isnan(numbers), np.inf, numbers)))
        worst = replace(row, number=float(numbers[rank]))
        if worst.result == OK:
            return replace(worst, note="")
        said = [f"on rank {rank}"] if rank else []
        return replace(worst, note=": ".join([*said, *filter(None, [row.note])]))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference, in units of the largest number of b."""
    return float((a - b).abs().max() / b.abs().max())


def different(a: torch.Tensor, b: torch.Tensor) -> int:
    """Count the numbers that are not the same to the last bit (NaN differs from itself)."""
    return int((a != b).sum())


def anywhere(world: World, claim: bool) -> bool:
    """Return whether the claim is true on any rank. All ranks together."""
    return bool(world.gather(np.full((world.R, 1), float(claim))).any())
