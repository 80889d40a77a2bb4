"""How long a run is: from its options, with torch or without."""

from __future__ import annotations

from typing import Protocol

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.schedules.duration import Units

DEFAULT_EPOCHS = 60.0


class HasLength(Protocol):
    """Options that say how long a run is, one of them at most."""

    @property
    def steps(self) -> int | str | None:
        """Optimiser steps, in any unit."""

    @property
    def epochs(self) -> float | None:
        """Epochs."""


def steps_of(config: HasLength, units: Units) -> int:
    """Return the length of a run in optimiser steps.

    Raises:
        ConfigurationError: It is given twice, or is no length.
    """
    given = config.steps
    if given is None:
        given = f"{DEFAULT_EPOCHS if config.epochs is None else config.epochs} epochs"
    steps = units.steps(given, "--epochs" if config.steps is None else "--steps")
    if steps < 1:
        raise ConfigurationError(f"a run of {given} is {steps} steps: give at least one")
    return steps
