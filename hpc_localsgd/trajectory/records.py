"""What a reader hands out: plain NumPy arrays with their names, units and shapes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, repr=False)
class Rounds:
    """The rounds of a run, S rows.

    Attributes:
        step_begin: ``[S]`` global step at which each round began.
        step_end: ``[S]`` global step after its last local step.
        local_steps: ``[S]`` H.
        lr: ``[S]`` learning rate at the first step.
        compute_s: ``[S, K]`` seconds of local steps.
        wait_s: ``[S, K]`` seconds waiting for the slowest worker.
        transfer_s: ``[S, K]`` seconds moving the exchanged numbers.
        payload_bytes: ``[S, K]`` bytes the algorithm asked a worker to send.
        wire_bytes: ``[S, K]`` bytes a worker put on the wire, NaN where unknown.
    """

    step_begin: np.ndarray
    step_end: np.ndarray
    local_steps: np.ndarray
    lr: np.ndarray
    compute_s: np.ndarray
    wait_s: np.ndarray
    transfer_s: np.ndarray
    payload_bytes: np.ndarray
    wire_bytes: np.ndarray

    def __len__(self) -> int:
        """Return S, the number of rounds."""
        return len(self.step_end)

    def __getitem__(self, column: str) -> np.ndarray:
        """Return a column by its name in the file."""
        if column not in (known := [f.name for f in fields(self)]):
            raise KeyError(f"no column {column!r}; there are {', '.join(known)}")
        return getattr(self, column)

    def __repr__(self) -> str:
        """Format as ``Rounds(312 rounds, steps 0-2000, H 1-16)``."""
        if not len(self):
            return "Rounds(none yet)"
        low, high = self.local_steps.min(), self.local_steps.max()
        H = f"{low}" if low == high else f"{low}-{high}"
        return (
            f"Rounds({len(self):,} rounds, steps {self.step_begin[0]}-{self.step_end[-1]}, H {H})"
        )


@dataclass(frozen=True, repr=False)
class Series:
    """A quantity over a run.

    Attributes:
        step: ``[n]`` global step after which each value was taken.
        value: ``[n, ...]`` one axis per name in `dims`.
        units: Unit, ``1`` for none.
        dims: Names of the axes of `value` after the first.
        meaning: One sentence.
        name: For example ``eval/test/accuracy``.
        samples: How many samples each value is the mean of; 0 where that is not known, as in files
            of older versions.
    """

    step: np.ndarray
    value: np.ndarray
    units: str
    dims: tuple[str, ...]
    meaning: str
    name: str
    samples: int = 0

    def __len__(self) -> int:
        """Return the number of values."""
        return len(self.step)

    def __repr__(self) -> str:
        """Format as ``Series(eval/test/accuracy: 13 values in fraction, last 0.972)``."""
        if not len(self):
            return f"Series({self.name}: no value yet)"
        shape = f" of shape {self.value.shape[1:]}" if self.value.ndim > 1 else ""
        units = "" if self.units in ("", "1") else f" in {self.units}"
        last = f", last {self.value[-1]:.4g}" if self.value.ndim == 1 else ""
        steps = f"steps {self.step[0]}-{self.step[-1]}"
        return f"Series({self.name}: {len(self):,} values{shape}{units}, {steps}{last})"


@dataclass(frozen=True)
class Snapshot:
    """Parameters at one step.

    Attributes:
        step: Global step after which they were taken.
        mean: ``[P]`` the mean model.
        workers: ``[K, P]`` every worker's model, None unless asked for and recorded.
    """

    step: int
    mean: np.ndarray
    workers: np.ndarray | None = None


@dataclass(frozen=True)
class Totals:
    """A run in a few numbers. Seconds and bytes are those of the mean worker.

    Attributes:
        rounds: Rounds, so exchanges; those of `allreduce` are its steps.
        steps: Global steps, so the exchanges parallel SGD would have made.
        compute_s: Seconds of local steps.
        wait_s: Seconds waiting for the slowest worker.
        transfer_s: Seconds moving the exchanged numbers.
        payload_bytes: Bytes the algorithm asked a worker to send.
        wire_bytes: Bytes a worker put on the wire; NaN when the world could not know.
    """

    rounds: int
    steps: int
    compute_s: float
    wait_s: float
    transfer_s: float
    payload_bytes: float
    wire_bytes: float

    @classmethod
    def of(cls, rounds: Rounds) -> Totals:
        """Add up `rounds`; one without a value counts as 0, a column without any stays NaN."""
        return cls(
            rounds=len(rounds),
            steps=int(rounds.local_steps.sum()),
            compute_s=_total(rounds.compute_s),
            wait_s=_total(rounds.wait_s),
            transfer_s=_total(rounds.transfer_s),
            payload_bytes=_total(rounds.payload_bytes),
            wire_bytes=_total(rounds.wire_bytes),
        )


def _total(column: np.ndarray) -> float:
    """Return the sum over rounds of the mean over the workers that a round had. ``[S, K]``."""
    known = ~np.isnan(column)
    if column.size and not known.any():
        return float("nan")
    sums, count = np.where(known, column, 0.0).sum(axis=1), known.sum(axis=1)
    return float((sums / np.maximum(count, 1)).sum())


def padded(x: np.ndarray, dims: tuple[str, ...], K: int) -> np.ndarray:
    """Pad axes with an entry a worker to K, with NaN for workers that do not exist.

    Args:
        x: Of any shape.
        dims: A name for each axis; "worker", and "rank" of a matrix over workers, are meant.
        K: Workers.
    """
    missing = [
        (0, max(K - size, 0) if dim in ("worker", "rank") else 0)
        for size, dim in zip(x.shape, dims, strict=True)
    ]
    return np.pad(x, missing, constant_values=np.nan) if any(map(any, missing)) else x
