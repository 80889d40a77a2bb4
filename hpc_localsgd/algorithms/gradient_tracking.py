"""Gradient tracking: every worker follows an estimate of the average gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.topology import Topology, ring

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class GradientTracking(Algorithm):
    """Decentralised SGD along tracked gradients y, whose mean is always the mean gradient.

        x(t+1) <- W (x(t) - lr y(t))        y(t+1) <- W (y(t) + g(t+1) - g(t)),    y(0) = g(0)

    Where W changes in time, x(t+1) is mixed with that of round t and y(t+1) with that of t + 1.

    Source: Di Lorenzo & Scutari 2016; Nedic et al. 2017 (the adapt-then-combine form).
    Here differs: the local optimiser takes y for its gradient, so momentum acts on y.
    Needs: rounds of one step.
    Sends: 2 P numbers per neighbour and step.
    Equals: AllReduce on the complete graph, for SGD with or without momentum.

    Attributes:
        topology: Who mixes with whom.
    """

    ends_equal = False
    may_begin_apart = True
    only_single_steps = True

    topology: Topology = field(default_factory=ring)

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: tracked and last gradient, `y` and `g` [R, P], none at first."""
        del x, model
        self.topology.matrix(world.K)
        return {"y": None, "g": None}

    def on_gradient(self, g: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the tracked gradients [R, P]."""
        if state["y"] is None:
            return g, {"y": g.clone(), "g": g.clone()}
        y, last = state["y"], state["g"]
        y.add_(g).sub_(last)
        last.copy_(g)
        world.mix(y, self.topology.matrix(world.K, now.s))
        g.copy_(y)
        return g, state

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the average of each worker's neighbourhood."""
        return world.mix(x, self.topology.matrix(world.K, now.s)), state

    def payload(self, model: ModelSize, K: int, now: Now) -> np.ndarray:
        """Return the bytes of x and y for each neighbour, [K]; in the first step only of x."""
        vectors = self.topology.sent(K, now.s) * (1 if now.t == 0 else 2)
        return vectors * model.nbytes
