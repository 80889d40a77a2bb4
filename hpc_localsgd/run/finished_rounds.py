"""Rounds that have ended: what this rank knows of them until all ranks exchange it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from hpc_localsgd.worlds.ledger import OpenRoundCost, Stamp

# What is shown beside the probes' values, by name.
ROUND_LOSS = "train/loss, mean of the round"  # the last step's is not in a row
LOSS_HERE = "train/loss, of the workers of this rank"
STEPS_OF_ROUNDS = "rounds/steps"  # of the rounds that ended since these were last shown
ROUNDS_LOSS = "rounds/loss"  # mean over those steps and all workers
COMPUTE_S, EXCHANGE_S = "rounds/compute_s", "rounds/exchange_s"  # of the mean worker, their sums
LAST_RATE, LAST_H = "rounds/lr", "rounds/H"

FIGURES = 5  # loss, seconds computing, seconds in exchanges, bytes asked to send, bytes sent


class Diverged(RuntimeError):
    """A worker's training loss is not finite. Raised by all ranks alike."""


@dataclass(frozen=True)
class FinishedRound:
    """One finished round of this rank; on a GPU its clock may still be running."""

    s: int
    H: int
    end: int
    lr: float
    figures: Callable[[], np.ndarray]  # -> [R, 5]

    def state(self) -> dict[str, Any]:
        """Return the row for a checkpoint."""
        figures = torch.from_numpy(self.figures())
        return {"s": self.s, "H": self.H, "end": self.end, "lr": self.lr, "figures": figures}

    @classmethod
    def saved(cls, state: dict[str, Any]) -> FinishedRound:
        """Restore a row from a checkpoint."""
        figures = state["figures"].numpy()
        return cls(state["s"], state["H"], state["end"], state["lr"], lambda: figures)


def shown_of(rows: list[FinishedRound], figures: np.ndarray) -> dict[str, float]:
    """Return what is shown of ended rounds, from the figures [n, 5] of the mean worker."""
    H, last = np.array([row.H for row in rows]), rows[-1]
    return {
        "train/loss" if last.H == 1 else ROUND_LOSS: float(figures[-1, 0]),
        STEPS_OF_ROUNDS: float(H.sum()),
        ROUNDS_LOSS: float(H @ figures[:, 0] / H.sum()),
        COMPUTE_S: float(figures[:, 1].sum()),
        EXCHANGE_S: float(figures[:, 2].sum()),
        LAST_RATE: last.lr,
        LAST_H: float(last.H),
    }


def figures_between(begin: Stamp, until: Stamp, open_cost: OpenRoundCost) -> np.ndarray:
    """Return the figures between two moments of this rank's workers: [R, 5], the loss left 0."""
    cost, ledger = open_cost.close(), open_cost.ledger
    compute_s = ledger.clock.seconds(begin, until) - cost.elsewhere_s
    if ledger.modelled:  # workers that take turns here would compute side by side
        compute_s /= ledger.R
    rest = (cost.transfer_s, cost.wire_bytes)
    return np.array([[0.0, compute_s, rest[0], sent, rest[1]] for sent in cost.payload_bytes])


def check_finite(rows: list[FinishedRound], losses: np.ndarray, tolerant: bool) -> None:
    """Check that the losses [K, n] are finite; with `tolerant`, of a worker at least.

    Raises:
        Diverged: They are not; names the first such round and the workers.
    """
    bad = ~np.isfinite(losses)
    if tolerant:
        bad &= bad.all(axis=0)
    if not bad.any():
        return
    i = int(np.argmax(bad.any(0)))
    workers = ", ".join(str(k) for k in np.flatnonzero(bad[:, i]))
    row = rows[i]
    raise Diverged(
        f"the training loss of worker {workers} is not finite in round {row.s} "
        f"(steps {row.end - row.H} to {row.end - 1}, learning rate {row.lr:g}): "
        "lower --rate.lr, lengthen --rate.warmup or shorten the rounds"
    )
