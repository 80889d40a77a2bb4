"""How long a run is: from its options, with torch or without."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units
from hpc_localsgd.tasks.partition import Partition

DEFAULT_EPOCHS = 60.0


class HasLength(Protocol):
    """Options that say how long a run is, one of them at most."""

    @property
    def steps(self) -> int | str | None:
        """Optimiser steps, in any unit."""

    @property
    def epochs(self) -> float | None:
        """Epochs."""


def units_of(config: HasLength, partition: Partition) -> Units:
    """Return the steps of an epoch, the samples of a step, and the steps of the run.

    Raises:
        ConfigurationError: The options say no length.
    """
    units = Units(partition.steps_per_epoch, partition.per_step)
    given = config.steps
    if given is None:
        given = f"{DEFAULT_EPOCHS if config.epochs is None else config.epochs} epochs"
    steps = units.steps(given, "--epochs" if config.steps is None else "--steps")
    if steps < 1:
        raise ConfigurationError(f"a run of {given} is {steps} steps: give at least one")
    return replace(units, total=steps)
