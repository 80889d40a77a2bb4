"""A worker whose numbers are not finite continues from the mean of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.engine.non_finite import non_finite_workers, replace_by_mean
from hpc_localsgd.types import legend

if TYPE_CHECKING:
    import numpy as np

    from hpc_localsgd.engine.optimizer import LocalOptimizer
    from hpc_localsgd.tasks.base import Task
    from hpc_localsgd.types import ModelSize, Now, Rows, State, Vector
    from hpc_localsgd.worlds.base import World

QUARANTINED = "quarantined"


class QuarantinedAlgorithm(Algorithm):
    """An algorithm that never sees the numbers of a worker whose parameters are not finite.

    Before an exchange a worker with a number that is not finite is given the mean of the others: so
    it is left out of an average, and starts again from it. The state of its optimiser is reset (to
    the others' mean, where rounds average it), and its BatchNorm statistics become the others'
    mean. Where gradients are exchanged, the same is done to them first. One number for each worker
    is gathered at every exchange, which is not billed. When no worker is finite nothing is done,
    and the run has diverged.

    In the state, `quarantined` holds the flags [K] of the last exchange, None if all were well.
    """

    def __init__(self, of: Algorithm, optimizer: LocalOptimizer, task: Task) -> None:
        self.of, self._optimizer, self._task = of, optimizer, task
        self.ends_equal = of.ends_equal
        self.ends_at_mean = False  # of the parameters before the exchange
        self.only_single_steps = of.only_single_steps
        self.sends_gradients = of.sends_gradients
        self.last_exchange_differs = of.last_exchange_differs

    def __repr__(self) -> str:
        """Return the algorithm's."""
        return legend(self.of)

    def makes_equal(self, state: State, now: Now) -> bool:
        """Return the algorithm's answer."""
        return self.of.makes_equal(state, now)

    def begins_equal(self, H: int) -> bool:
        """Return the algorithm's answer."""
        return self.of.begins_equal(H)

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the algorithm's state, with no worker in quarantine."""
        return {**self.of.init(x, world, model), QUARANTINED: None}

    def as_begun(self, state: State) -> QuarantinedAlgorithm:
        """Wrap the algorithm as it was begun."""
        return QuarantinedAlgorithm(self.of.as_begun(state), self._optimizer, self._task)

    def on_gradient(self, g: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Run the algorithm, with gradients made finite before they are sent."""
        if self.exchanges_gradients(now.H):
            replace_by_mean(g, non_finite_workers([g], world), world)
        return self.of.on_gradient(g, state, world, now)

    def on_step(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Run the algorithm."""
        return self.of.on_step(x, state, world, now)

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Run the algorithm, with the others' mean in place of workers that are not finite."""
        bad = non_finite_workers([x], world)
        if bad.any() and not bad.all():
            replace_by_mean(x, bad, world)
            if self._task.buffers.numel():
                replace_by_mean(self._task.buffers, bad, world)
            self._optimizer.leave_out(bad, world)
        x, state = self.of.on_sync(x, state, world, now)
        return x, {**state, QUARANTINED: bad.tolist() if bad.any() else None}

    def readout(self, x: Rows, state: State, world: World) -> Vector:
        """Return the algorithm's model."""
        return self.of.readout(x, state, world)

    def resume(self, state: State, world: World) -> State:
        """Resume the algorithm."""
        return self.of.resume(state, world)

    def payload(self, model: ModelSize, K: int, now: Now) -> int | np.ndarray:
        """Return the algorithm's bytes."""
        return self.of.payload(model, K, now)
