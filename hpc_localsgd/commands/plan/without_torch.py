"""A plan where PyTorch is not installed: of a run that averages parameters or gradients.

With torch, `plan` makes the task and rehearses the method's own exchanges. Here the model and the
data are numbers, `--parameters` and `--samples`, and an exchange is an average over all workers.
"""

from __future__ import annotations

import math
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

from jsonargparse import ArgumentParser

from hpc_localsgd.commands.assembly.length import units_of
from hpc_localsgd.commands.output import columns_of_output
from hpc_localsgd.commands.plan.job_limit import job_limit_s
from hpc_localsgd.commands.plan.page import page
from hpc_localsgd.commands.plan.plan_report import Memory, PlanReport
from hpc_localsgd.cost.advice import Advice, Circumstances, advise
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.cost.preview import preview
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.local_steps import Schedule, post_local
from hpc_localsgd.schedules.rates import Rate, cosine
from hpc_localsgd.schedules.time_limit import seconds_of
from hpc_localsgd.tasks.partition import Partition
from hpc_localsgd.trajectory import disk_estimate
from hpc_localsgd.types import ModelSize

ABOUT = (
    "PyTorch is not installed: this plan knows averages only (in a clone: pip install '.[train]')."
)
BYTES = 4  # of a number


@dataclass
class Averages:
    """A run of averages, to be planned without PyTorch.

    Args:
        parameters: P, the model's parameters.
        samples: Size of the training set.
        algorithm: Parameters averaged at the end of rounds, or gradients at every step.
        schedule: Length in steps of the round that starts now.
        rate: Learning rate of a step.
        workers: K, model replicas.
        fabric: Network between them, as for train.
        steps: Length of the run in optimiser steps (any unit but %). Give this or epochs.
        epochs: Length of the run in epochs. Default: 60 epochs.
        batch_per_worker: Samples per worker and step.
        step_time: Seconds of one local step.
        time_limit: Of the job, as for sbatch.
    """

    parameters: float
    samples: float
    algorithm: Literal["local_sgd", "allreduce"] = "local_sgd"
    schedule: Schedule = field(default_factory=lambda: post_local(switch="50%", every=16))
    rate: Rate = field(default_factory=lambda: cosine(lr=0.1, warmup="5%"))
    workers: int = 1
    fabric: str = "10GbE"
    steps: int | str | None = None
    epochs: float | None = None
    batch_per_worker: int = 16
    step_time: float | None = None
    time_limit: str | None = None


@dataclass(frozen=True)
class _Planned:
    """What the page wants of a planned run."""

    config: Any
    workers: int
    model: ModelSize
    samples: int
    schedule: Schedule
    rate: Rate
    stand_in: bool = False
    placement: Any = field(default_factory=lambda: SimpleNamespace(n=1))  # ranks need torch


def plan(argv: Sequence[str], prog: str) -> str:
    """Return the page of a plan.

    Raises:
        ConfigurationError: Unknown options, or model and data are not given as numbers.
    """
    parser = ArgumentParser(prog=prog, description=ABOUT, exit_on_error=False)
    parser.add_class_arguments(Averages, nested_key=None)
    typed = [_as_in_parser(word) for word in argv]
    try:
        parsed = parser.parse_args(typed)
        made = parser.instantiate(parsed).as_dict()
    except ArgumentError as error:
        raise ConfigurationError(
            f"{str(error).splitlines()[0]}. {ABOUT} Give --parameters P and --samples N; --help "
            "lists the options"
        ) from error
    return page(_report(Averages(**made)), columns_of_output())


def _as_in_parser(word: str) -> str:
    """Return a word with the name of its option as the parser has it."""
    option, equals, value = word.partition("=")
    return (
        option.replace("-", "_").replace("__", "--", 1) + equals + value
        if word[:2] == "--"
        else word
    )


def _report(run: Averages) -> PlanReport:
    P, samples, K = round(run.parameters), round(run.samples), run.workers
    partition = Partition(samples, K, run.batch_per_worker, 0, False, "carry")
    if run.steps is not None and run.epochs is not None:
        raise ConfigurationError("--steps and --epochs are both given: one of them is the length")
    units = units_of(run, partition)
    rate = run.rate.in_steps(units)
    schedule = run.schedule.in_steps(units, int(rate.warmup))
    model, wire = ModelSize((P,), BYTES), network(run.fabric)
    parallel = run.algorithm == "allreduce"
    sent, took_s = (model.nbytes, wire.mean_s(K, model.nbytes)) if K > 1 else (0, 0.0)
    seen = preview(
        schedule,
        rate,
        units.total or 0,
        lambda now: sent * (now.H if parallel else 1),
        exchange_s=lambda now: took_s * (now.H if parallel else 1),
        parallel_bytes=sent,
        parallel_s=took_s,
        step_s=math.nan if run.step_time is None else run.step_time,
        steps_per_epoch=units.steps_per_epoch,
    )
    limit_s = job_limit_s() if run.time_limit is None else seconds_of(run.time_limit)
    given = Circumstances(K, limit_s, parallel=parallel, measured=schedule.observes)
    return PlanReport(
        planned=_Planned(run, K, model, samples, schedule, rate),  # type: ignore[arg-type]
        plan=seen,
        network=wire,
        optimizer="SGD with momentum is assumed",
        memory=Memory(model.nbytes, model.nbytes, model.nbytes, 0.0),
        disk=disk_estimate(K, P, rounds=seen.rounds, series_values=seen.rounds * K),
        topology="",
        gap=math.nan,
        time_limit_s=limit_s,
        advice=(*advise(seen, given), Advice("without_torch", ABOUT)),
        parallel=parallel,
    )
