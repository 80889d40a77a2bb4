"""A configuration tried out in seconds: the real models and algorithms on very little of the rest.

What is kept: the model at its full size, the shapes of the data, the algorithm, optimiser, schedule
and rates, whose durations shrink with the run. What is not: the data (synthetic), the number of
workers, batches, the precision and compilation meant for a GPU, and everything kept on disk but the
trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TypeVar

from hpc_localsgd.commands.configuration.config import Config
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.schedules.local_steps import Schedule

S = TypeVar("S", bound=Schedule)
STEPS = 4  # of the run
BATCH = 2  # samples of a worker and step
WORKERS = 2  # at least
LONGEST = 2  # steps of a round, where it is a constant
_LENGTHS = {"every", "steps", "at_least", "at_most"}  # fields of schedules, numbers of steps


def smaller(config: Config, ranks: int) -> Config:
    """Return the options for a short trial of this configuration on so many ranks."""
    algorithm, multiple = config.algorithm.smoke()
    return replace(
        config,
        task=config.task.smoke(),
        algorithm=algorithm,
        schedule=_shorter(config.schedule),
        workers=math.lcm(max(ranks, WORKERS), ranks, multiple),
        batch_per_worker=min(BATCH, config.batch_per_worker),
        batchnorm_batches=min(WORKERS, config.batchnorm_batches),
        precision="float32",
        accumulate=1,
        compile=False,
        out=f"{config.out}-smoke",
        overwrite=True,
        resume=False,
        resume_from_mean=False,
        partition="iid",
        init_from=None,
        init_with="mean",
        evaluate_every="100%",
        spread_every="50%",
        snapshot_every="100%" if config.snapshot_every else 0,
        checkpoint_every=0,
        figures=False,
        save_model=False,
    )


def shortened(units: Units) -> Units:
    """Return units in which the whole run takes `STEPS` steps, epochs and samples shortened alike.

    A little shorter still, so that a phase in the last third of a run has a round of two steps.
    """
    faster = (STEPS - 0.5) / (units.total or STEPS)
    return Units(units.steps_per_epoch * faster, round(units.samples_per_step / faster), STEPS)


def _shorter(schedule: S) -> S:
    """Return the schedule with rounds short enough that there are several."""
    changed: dict[str, object] = {}
    for field in fields(schedule):  # type: ignore[arg-type]
        value = getattr(schedule, field.name)
        if field.name not in _LENGTHS:
            continue
        if isinstance(value, int):
            changed[field.name] = min(LONGEST, value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            changed[field.name] = [min(LONGEST, H) for H in value]
    return replace(schedule, **changed)  # type: ignore[type-var]
