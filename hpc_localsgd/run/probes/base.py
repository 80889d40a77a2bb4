"""What a probe is, and what it sees of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_localsgd.engine.position import Position, Run
    from hpc_localsgd.types import Vector


@dataclass(frozen=True)
class Measurement:
    """One value of a series, or one snapshot (`name == "snapshot"`).

    Attributes:
        name: Of the series.
        value: A number or an array.
        units: Unit, ``1`` for none.
        dims: A name for each axis of the value.
        meaning: One sentence.
        samples: How many samples the value is the mean of; 0 where that says nothing.
    """

    name: str
    value: Any
    units: str = "1"
    dims: tuple[str, ...] = ()
    meaning: str = ""
    samples: int = 0


@dataclass
class View:
    """A run at step t as probes see it. The mean model is computed once, when first needed."""

    run: Run
    p: Position

    @cached_property
    def mean(self) -> Vector:
        """The model to evaluate, [P]. A collective."""
        return self.run.algorithm.readout(self.p.x, self.p.state, self.run.world)

    @cached_property
    def buffers(self) -> Vector:
        """The buffers [Q] to evaluate it with. A collective."""
        return self.run.batchnorm.for_evaluation(self.mean, self.run.task, self.run.world)


class Probe(ABC):
    """A quantity that is measured every so many steps, and at the end.

    Attributes:
        every: Cadence in steps; 0 means never, except at the end if `at_end`.
    """

    every: int

    def due(self, t: int, steps: int) -> bool:
        """Return whether to measure after t steps of a run of `steps`."""
        return self.every > 0 and (t % self.every == 0 or t == steps)

    @abstractmethod
    def measure(self, view: View) -> Iterator[Measurement]:
        """Yield the values at this moment, the same on all ranks. May use collectives."""
