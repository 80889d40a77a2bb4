"""What each round of a run had cost: as it was recorded, or on a network that is asked for.

A modelled network bills the run's own rounds anew, by the cost model and the algorithm's own
exchanges (those of `python -m hpc_localsgd plan`), with one time of a step for all methods; an
average that is under way is hidden behind the steps meanwhile. So one training is priced on every
network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from hpc_localsgd.analysis.costs import round_s
from hpc_localsgd.analysis.curves import mean_over_rest
from hpc_localsgd.commands.configuration.config import recorded
from hpc_localsgd.commands.plan.planned_run import PlannedRun, PlanOptions, planned_run
from hpc_localsgd.commands.plan.rehearsal import Rehearsal
from hpc_localsgd.cost.cost_model import Network
from hpc_localsgd.engine.launch import Launch
from hpc_localsgd.trajectory import Trajectory
from hpc_localsgd.types import Now

ALONE = Launch("none", 0, 1, 0, "")
_SEED = re.compile(r"^seed: .*$", re.MULTILINE)


@dataclass(frozen=True)
class RunCost:
    """Costs of a run, round by round.

    Attributes:
        step_end: ``[S]`` global step after each round.
        sent_bytes: ``[S]`` bytes that the mean worker sent in it.
        talked_s: ``[S]`` seconds it spent communicating.
        total_s: ``[S]`` seconds of the round, computing included.
    """

    step_end: np.ndarray
    sent_bytes: np.ndarray
    talked_s: np.ndarray
    total_s: np.ndarray

    def until(self, step: float) -> tuple[float, float, float]:
        """Bytes, seconds of communication and all seconds of the rounds that ended by a step.

        Args:
            step: Global step.
        """
        n = int(np.searchsorted(self.step_end, step, side="right"))
        columns = (self.sent_bytes, self.talked_s, self.total_s)
        sent, talked, total = (float(column[:n].sum()) for column in columns)
        return sent, talked, total


def as_recorded(run: Trajectory) -> RunCost:
    """Give the costs that the record has.

    Args:
        run: The run.
    """
    rounds = run.rounds
    talked = np.nan_to_num(mean_over_rest(rounds.wait_s + rounds.transfer_s))
    return RunCost(rounds.step_end, _sent(run), talked, round_s(run))


def priced(run: Trajectory, network: Network, step_s: float, trusted: list[str]) -> RunCost:
    """Give the costs of a run's rounds on another network.

    Args:
        run: The run.
        network: Between its workers.
        step_s: Seconds of a local step.
        trusted: Modules that its configuration may name, beside this package's and torch's.

    Raises:
        ConfigurationError: Its configuration is not understood here.
    """
    rounds = run.rounds
    text = _SEED.sub("seed: 0", str(run.attrs["config"]), count=1)  # which changes no cost
    talked = _talked_s(text, tuple(trusted), network, step_s, tuple(rounds.step_end.tolist()))
    return RunCost(rounds.step_end, _sent(run), talked, rounds.local_steps * step_s + talked)


@cache
def _talked_s(
    text: str, trusted: tuple[str, ...], network: Network, step_s: float, ends: tuple[int, ...]
) -> np.ndarray:
    """Give the seconds of the exchanges of rounds that end at these steps, acted out."""
    planned = _planned(text, trusted)
    rehearsal, begin, parallel = Rehearsal(planned, network, step_s), 0, True
    found = np.zeros(len(ends))
    for s, end in enumerate(ends):
        H = end - begin
        parallel = parallel and H == 1
        lr, last = planned.rate(end - 1), end == planned.steps
        found[s] = rehearsal(Now(end - 1, s, H, H - 1, lr, planned.rate(begin), last, parallel))
        begin = end
    return found


@cache
def _planned(text: str, trusted: tuple[str, ...]) -> PlannedRun:
    return planned_run(recorded(text, trusted), PlanOptions(), ALONE)


def step_seconds(runs: list[Trajectory]) -> float:
    """Give the seconds a worker computes for a step: the median over rounds of the fastest run.

    Of several runs it is the one that had the machine to itself most.

    Args:
        runs: At least one.
    """
    each = [mean_over_rest(run.rounds.compute_s) / run.rounds.local_steps for run in runs]
    return min(float(np.median(steps)) for steps in each if len(steps))


def _sent(run: Trajectory) -> np.ndarray:
    return np.nan_to_num(mean_over_rest(run.rounds.payload_bytes))
