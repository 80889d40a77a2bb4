"""What a record tells of a run that is asked about: its steps, its rounds, its network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpc_localsgd.commands.configuration.config import Resolved, recorded
from hpc_localsgd.commands.plan.planned_run import PlannedRun, PlanOptions, planned_run
from hpc_localsgd.cost.step_times import StepTimes, step_times
from hpc_localsgd.engine.launch import Launch
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.base import Schedule
from hpc_localsgd.trajectory import Trajectory

ALONE = Launch("none", 0, 1, 0, "")
OF_A_STEP = (
    *("task", "batch_per_worker", "accumulate", "gradient", "dtype", "precision"),
    *("channels_last", "compile", "replicas", "device"),
)
_LENGTH = "the steps are those of the run; those of another length are told by plan --step-time"
ELSEWHERE = {
    "workers": "type --workers K before it",
    "fabric": "type --fabric before it",
    "steps": _LENGTH,
    "epochs": _LENGTH,
}


@dataclass(frozen=True, repr=False)
class AsRecorded(Schedule):
    """The rounds that a run had, whatever they followed.

    Attributes:
        begins: First step of each.
        lengths: Of each.
        name: How the record spells the schedule.
    """

    begins: tuple[int, ...]
    lengths: tuple[int, ...]
    name: str

    def __call__(self, t: int, lr: float) -> int:
        """Return the length of the round that step t belongs to."""
        del lr
        return self.lengths[int(np.searchsorted(self.begins, t, side="right")) - 1]

    def __repr__(self) -> str:
        """Spell it as the record does."""
        return self.name


@dataclass(frozen=True)
class Basis:
    """A run that is asked about.

    Attributes:
        run: Its record.
        trusted: Modules its configuration may name, beside this package's and torch's.
        times: Of its steps.
        samples: Of its training set.
        steps: It was to have.
        own: Its options, as recorded.
    """

    run: Trajectory
    trusted: tuple[str, ...]
    times: StepTimes
    samples: int
    steps: int
    own: Resolved

    def resolved(self, words: Sequence[str] = ()) -> Resolved:
        """Return its options, changed by some that are typed.

        Raises:
            ConfigurationError: They are not understood, or change what a step computes.
        """
        if not words:
            return self.own
        found = recorded(self.run.config_text, self.trusted, words)
        own = self.own.config
        typed = {word.partition("=")[0] for word in words}
        for name in OF_A_STEP:
            if getattr(found.config, name) != getattr(own, name):
                option = "--" + name.replace("_", "-")
                raise ConfigurationError(
                    f"{option}: the seconds of a step are those of the run, so its {option} "
                    "stays; give --step-time of a short run instead, and plan that one"
                )
        for name, cure in ELSEWHERE.items():
            if f"--{name}" in typed:
                raise ConfigurationError(f"--{name} behind -- is not looked at: {cure}")
        return found

    def planned(self, resolved: Resolved, workers: int, strong: bool = False) -> PlannedRun:
        """Return the run with so many workers.

        Args:
            resolved: Its options.
            workers: K.
            strong: Share the run's samples among them: fewer steps; else every worker has as many
                samples and steps as in the run.
        """
        more = workers / self.run.K
        steps, samples = self.steps, self.samples * more
        if strong:
            steps, samples = max(1, round(self.steps / more)), self.samples
        config = replace(resolved.config, workers=workers, steps=steps, epochs=None)
        options = PlanOptions(parameters=self.run.P, samples=max(workers, round(samples)))
        return planned_run(replace(resolved, config=config), options, ALONE)

    def as_it_was(self, planned: PlannedRun) -> PlannedRun:
        """Return a plan with the rounds of the record, where that has them all."""
        rounds = self.run.rounds
        H = rounds.local_steps.astype(int)
        begins = np.concatenate([[0], np.cumsum(H)[:-1]])
        whole = len(H) and (rounds.step_begin == begins).all() and H.sum() == planned.steps
        if not whole:
            return planned
        name = repr(planned.schedule)
        schedule = AsRecorded(tuple(begins.tolist()), tuple(H.tolist()), name)
        return replace(planned, schedule=schedule)


def basis(run: Trajectory, trusted: Sequence[str], step_s: float | None) -> Basis:
    """Read what answers are made from.

    Args:
        run: The record.
        trusted: Modules its configuration may name, beside this package's and torch's.
        step_s: Seconds of a step, in place of those that were measured.

    Raises:
        ConfigurationError: It has no rounds, or does not say how long it was to be.
    """
    rounds = run.rounds
    try:
        times = step_times(rounds.compute_s, rounds.local_steps)
    except ValueError as error:
        raise ConfigurationError(f"{run.path}: {error}, so there is nothing to go by") from error
    if step_s is not None:
        times = StepTimes(step_s)
    steps = int(run.attrs.get("steps", 0)) or int(rounds.step_end[-1])
    own = recorded(run.config_text, trusted)
    per_step = run.K * own.config.batch_per_worker
    epoch = float(run.attrs.get("steps_per_epoch", math.nan))
    samples = round(per_step * (epoch if math.isfinite(epoch) else steps))
    return Basis(run, tuple(trusted), times, samples, steps, own)
