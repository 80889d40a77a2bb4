"""What a run has cost by a step: bytes and seconds, from the table of rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpc_localsgd.analysis.curves import mean_over_rest
from hpc_localsgd.cost.formatting import grouped
from hpc_localsgd.trajectory import Trajectory


def sent_bytes(run: Trajectory, step: np.ndarray) -> np.ndarray:
    """Return the bytes the mean worker had sent after so many steps. ``[n] -> [n]``.

    Between two exchanges it stands still: a value belongs to the exchanges that came before it.

    Args:
        run: The run.
        step: ``[n]`` global steps.
    """
    return _so_far(run, run.rounds.payload_bytes, step)


def communication_s(run: Trajectory, step: np.ndarray) -> np.ndarray:
    """Return the seconds the mean worker waited and transferred up to each step. ``[n] -> [n]``.

    Between two exchanges it stands still, as bytes do.

    Args:
        run: The run.
        step: ``[n]`` global steps.
    """
    return _so_far(run, run.rounds.wait_s + run.rounds.transfer_s, step)


def _so_far(run: Trajectory, spent: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return the sum, over the rounds ended at each step, of the mean worker's ``[S, K]``."""
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(mean_over_rest(spent)))])
    return total[np.searchsorted(run.rounds.step_end, step, side="right")]


def elapsed_s(run: Trajectory, step: np.ndarray) -> np.ndarray:
    """Return the seconds of training after so many steps. ``[n] -> [n]``.

    The seconds of a round are those of its slowest worker: computing, waiting and transferring.
    Inside a round they pass evenly. Measuring, checkpoints and start-up are not in it.

    Args:
        run: The run.
        step: ``[n]`` global steps.
    """
    rounds = run.rounds
    if not len(rounds):
        return np.zeros(len(step))
    ends = np.concatenate([rounds.step_begin[:1], rounds.step_end])
    return np.interp(step, ends, np.concatenate([[0.0], np.cumsum(round_s(run))]))


def averages_every_step(run: Trajectory) -> bool:
    """Return whether gradients are averaged at every step, whatever rounds the schedule has.

    Args:
        run: The run; only the legend of its algorithm is read.
    """
    return str(run.attrs["algorithm"]).partition("(")[0] == "AllReduce"


def exchanges(run: Trajectory) -> int:
    """Return how often workers exchanged: once a round, or once a step in parallel SGD.

    Args:
        run: The run.
    """
    return run.totals.steps if averages_every_step(run) else run.totals.rounds


def rounds_said(run: Trajectory) -> str:
    """Return the number of exchanges, beside that of parallel SGD where it is not.

    Args:
        run: The run.
    """
    steps = grouped(run.totals.steps)
    if averages_every_step(run):
        return f"{steps}, one a step: parallel SGD"
    return f"{grouped(run.totals.rounds)}, against {steps} of parallel SGD"


def round_s(run: Trajectory) -> np.ndarray:
    """Return the seconds of each round ``[S]``: its slowest worker's, 0 where unknown.

    Args:
        run: The run.
    """
    rounds = run.rounds
    parts = (np.nan_to_num(rounds[name]) for name in ("compute_s", "wait_s", "transfer_s"))
    return sum(parts, np.zeros_like(rounds.compute_s)).max(axis=1, initial=0.0)


@dataclass(frozen=True)
class Axis:
    """A cost that progress is drawn against.

    Attributes:
        name: In file names and on the command line.
        of: Where steps ``[n]`` of a run are on it, ``[n]``.
    """

    name: str
    of: Callable[[Trajectory, np.ndarray], np.ndarray]


STEPS = Axis("steps", lambda run, step: step.astype(float))
SENT = Axis("bytes", sent_bytes)
SPENT = Axis("seconds", elapsed_s)
AXES = (STEPS, SENT, SPENT)
