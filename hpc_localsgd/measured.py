"""Schedules that measure: an algorithm that also finds the length of the next round.

The length travels in the algorithm's state, so it is saved and resumed with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.plan.schedule import spread_triggered
from hpc_localsgd.probes import spread

if TYPE_CHECKING:
    import numpy as np

    from hpc_localsgd.tasks.parts import Begin
    from hpc_localsgd.types import Footprint, Now, Rows, State, Vector
    from hpc_localsgd.worlds.base import World

NEXT_H = "next_H"


@dataclass(frozen=True)
class Measured(Algorithm):
    """Another algorithm, and the spread at each of its exchanges.

    The spread costs one number a worker where the algorithm leaves all workers at their mean, and
    an average of the parameters elsewhere. Neither is billed.

    Attributes:
        of: The algorithm.
        schedule: Says what H the spread asks for.
    """

    of: Algorithm
    schedule: spread_triggered

    @property
    def ends_equal(self) -> bool:  # type: ignore[override]
        """As the algorithm."""
        return self.of.ends_equal

    @property
    def ends_at_mean(self) -> bool:  # type: ignore[override]
        """As the algorithm."""
        return self.of.ends_at_mean

    @property
    def sends_gradients(self) -> bool:  # type: ignore[override]
        """As the algorithm."""
        return self.of.sends_gradients

    def makes_equal(self, state: State, now: Now) -> bool:
        """As the algorithm."""
        return self.of.makes_equal(state, now)

    def init(self, x: Rows, world: World, model: Footprint) -> State:
        """The algorithm's state; no length is known yet."""
        return self.of.init(x, world, model)

    def on_gradient(self, g: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """As the algorithm."""
        return self.of.on_gradient(g, state, world, now)

    def in_backward(self, state: State, world: World, now: Now) -> Begin | None:
        """As the algorithm."""
        return self.of.in_backward(state, world, now)

    def on_step(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """As the algorithm."""
        return self.of.on_step(x, state, world, now)

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """As the algorithm; the state gains the length of the next round."""
        with world.ledger.unbilled():
            before = x.clone()
        x, state = self.of.on_sync(x, state, world, now)
        apart = spread(before, x[0] if self.of.ends_at_mean else None, world)
        return x, {**state, NEXT_H: self.schedule.after(now.H, apart)}

    def readout(self, x: Rows, state: State, world: World) -> Vector:
        """As the algorithm."""
        return self.of.readout(x, state, world)

    def resume(self, state: State, world: World) -> State:
        """As the algorithm."""
        return self.of.resume(state, world)

    def payload(self, model: Footprint, K: int, now: Now) -> int | np.ndarray:
        """As the algorithm."""
        return self.of.payload(model, K, now)
