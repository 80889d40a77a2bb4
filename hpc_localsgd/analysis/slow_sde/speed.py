"""How fast a run goes along the minimisers, step by step: see `prediction` for the formula.

Steps are taken in blocks, as arrays: runs have millions of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.analysis.costs import averages_every_step
from hpc_localsgd.analysis.planned import rate_of
from hpc_localsgd.analysis.slow_sde.conditions import foreign, gain, unstable
from hpc_localsgd.analysis.slow_sde.regime import finite_boost

if TYPE_CHECKING:
    from hpc_localsgd.trajectory import Trajectory

BLOCK = 1024


@dataclass(frozen=True)
class Places:
    """Trace and eigenvalues between the snapshots where they were measured, linearly.

    Attributes:
        where: [n], ascending: steps, or the distance gone.
        trace: [n].
        eigenvalues: [n, k].
    """

    where: np.ndarray
    trace: np.ndarray
    eigenvalues: np.ndarray

    def at(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return trace [m] and eigenvalues [m, k] at places s [m]; beyond the ends, those there."""
        i = np.clip(np.searchsorted(self.where, s, "right") - 1, 0, len(self.where) - 2)
        width = self.where[i + 1] - self.where[i]
        f = np.clip((s - self.where[i]) / np.where(width > 0, width, np.inf), 0.0, 1.0)
        trace = (1 - f) * self.trace[i] + f * self.trace[i + 1]
        f = f[:, None]
        return trace, (1 - f) * self.eigenvalues[i] + f * self.eigenvalues[i + 1]


@dataclass(frozen=True)
class Steps:
    """Consecutive steps of a run, and what of them sets their speed.

    Attributes:
        name: Of the run, for messages.
        first: The step they begin with.
        K: Workers.
        batch: B, samples of all workers together in one step.
        lr: [n], eta, divided by 1 - momentum; 0 where a step goes nowhere.
        H: [n], length of the round that holds each step.
    """

    name: str
    first: int
    K: int
    batch: int
    lr: np.ndarray
    H: np.ndarray

    def blocks(self) -> Iterator[Steps]:
        """Yield the same steps, not too many at a time."""
        for a in range(0, len(self.lr), BLOCK):
            few = slice(a, a + BLOCK)
            yield Steps(self.name, self.first + a, self.K, self.batch, self.lr[few], self.H[few])

    def speeds(self, trace: np.ndarray, eigenvalues: np.ndarray) -> np.ndarray:
        """Return the distance covered in every step, [n].

        Args:
            trace: [n], tr H at the places.
            eigenvalues: [n, k], the largest there; those that are unknown or below 0 are not of a
                minimiser and left out.
        """
        moves = self.lr > 0
        lr, H = np.where(moves, self.lr, 1.0)[:, None], self.H[:, None]
        curved = np.where(np.isfinite(eigenvalues) & (eigenvalues > 0), eigenvalues, 0.0)
        boost = finite_boost(self.K, lr, H, curved * (2 - lr * curved))
        weight = curved / (2 - np.minimum(lr * curved, 1.9)) * boost
        rest = np.maximum(trace - curved.sum(1), 0.0) / 2
        speed = 2 * lr[:, 0] ** 2 / self.batch * (weight.sum(1) + rest) / trace
        return np.where(moves, speed, 0.0)

    def check_stable(self, eigenvalues: np.ndarray) -> None:
        """Check that there is a balance around the minimisers at every step.

        Args:
            eigenvalues: [n, k], the largest at the places.

        Raises:
            ValueError: A step is too large for one; the first of them is named.
        """
        largest = np.nanmax(eigenvalues, axis=1)
        for i in np.flatnonzero(self.lr * largest >= 2)[:1]:
            why = unstable(float(self.lr[i]), float(largest[i]))
            raise ValueError(
                f"{self.name}: at step {self.first + i} {why}: there is no balance to predict"
            )


def passed(steps: Steps, places: Places) -> np.ndarray:
    """Return the distance gone before each of the steps and after the last, [n + 1], from 0.

    Args:
        steps: Of the run whose sharpness was measured.
        places: What was measured, by step.

    Raises:
        ValueError: The learning rate is too large for what was measured somewhere.
    """
    found = []
    for block in steps.blocks():
        trace, eigenvalues = places.at(block.first + np.arange(len(block.lr)))
        block.check_stable(eigenvalues)
        found.append(block.speeds(trace, eigenvalues))
    return np.concatenate([[0.0], np.cumsum(np.concatenate([[], *found]))])


def followed(steps: Steps, places: Places) -> np.ndarray:
    """Return the distance that a run goes along places measured in another, as `passed` does.

    Each step begins where the last one ended, s_{t+1} = s_t + v_t(s_t). A whole block of them is
    guessed and improved until nothing changes: then it is that recursion's.

    Args:
        steps: Of the run to predict.
        places: What was measured, by the distance gone.

    Raises:
        ValueError: The learning rate is too large for what was measured where the run comes by.
    """
    found = [np.zeros(1)]
    for block in steps.blocks():
        begin, gone = found[-1][-1], np.full(len(block.lr) + 1, found[-1][-1])
        before = None
        while before is None or not np.array_equal(before, gone):
            before = gone
            moves = block.speeds(*places.at(before[:-1]))
            gone = np.cumsum(np.concatenate([[begin], moves]))
        block.check_stable(places.at(gone[:-1])[1])
        found.append(gone[1:])
    return np.concatenate(found)


def steps_of(run: Trajectory, first: int, last: int) -> Steps:
    """Return the steps first <= t < last of a run.

    Args:
        run: Its record; only rounds and configuration are read.
        first: A step of its rounds.
        last: Where their last one ends, at most.

    Raises:
        ValueError: The theory is not about this run, or the record's rounds do not reach from first
            to last, or have a rate that is NaN.
    """
    if why := foreign(run):
        raise ValueError(f"{run.path}: the Slow SDE is of Local SGD, and this run has {why}")
    lr, H = rates_of(run, first, last)
    if not (lr >= 0).all():
        raise ValueError(f"{run.path}: has learning rates that are not known, or negative")
    batch = int(run.config["batch_per_worker"]) * run.K
    return Steps(str(run.path), first, run.K, batch, lr * gain(run), H)


def rates_of(run: Trajectory, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the learning rate of every step first <= t < last, and the H of its round.

    Args:
        run: Its record.
        first: A step of its rounds.
        last: Where their last one ends, at most.

    Raises:
        ValueError: The record's rounds do not reach from first to last.
    """
    rounds = run.rounds
    reach = [int(rounds.step_begin[0]), int(rounds.step_end[-1])] if len(rounds.lr) else [0, 0]
    if first < reach[0] or last > reach[1]:
        raise ValueError(
            f"{run.path} has rounds of steps {reach[0]} to {reach[1]}, not of {first} to {last}: "
            "the run was killed before its last rounds were written, or is another one"
        )
    begin, end = (np.clip(at, first, last) for at in (rounds.step_begin, rounds.step_end))
    H = np.repeat(rounds.local_steps, end - begin)
    if averages_every_step(run):
        H = np.ones_like(H)
    if len(H) < last - first:
        raise ValueError(f"{run.path} has no rounds of {last - first - len(H)} of those steps")
    rate = rate_of(run)  # where it is not known, that of the round's first step holds for all
    if rate is None:
        return np.repeat(rounds.lr, end - begin).astype(float), H
    return np.array([rate(t) for t in range(first, last)], dtype=float), H
