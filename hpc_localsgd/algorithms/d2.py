"""D2 (exact diffusion): decentralised SGD without the bias of unequal data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology import Topology, lambda_min, lazy, ring

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class D2(Algorithm):
    """Exact diffusion; y is where the local steps of a round lead from x.

        x(s+1) <- W (y(s) + x(s) - y(s-1))        x(1) <- W y(0)

    For one step of plain SGD, y = x - lr g, this is W (2 x(s) - x(s-1) - lr g(s) + lr g(s-1)).

    Source: Tang et al., D2, ICML 2018; Yuan et al., exact diffusion, 2019.
    Here differs: written with y, so that any local optimiser and several local steps fit.
    Needs: a symmetric W that does not change, with lambda_min > -1/3: lazy(of=...) has it.
    Sends: P numbers per neighbour and round.
    Equals: LocalSGD(average="parameters") on the complete graph.

    Attributes:
        topology: Who mixes with whom; (I + W) / 2 of a ring by default.
    """

    ends_equal = False
    may_begin_apart = True

    topology: Topology = field(default_factory=lambda: lazy(of=ring()))

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `x` [R, P], the round's start, and `y` [R, P] of the round before.

        Raises:
            ConfigurationError: The graph changes, is directed, or has lambda_min <= -1/3.
        """
        del model
        if self.topology.period(world.K) != 1:
            raise ConfigurationError(f"d2 needs a graph that does not change, not {self.topology}")
        least = lambda_min(self.topology.matrix(world.K))
        if least <= -1 / 3 + 1e-9:
            raise ConfigurationError(
                f"d2 needs a topology with lambda_min > -1/3, and {self.topology} of {world.K} "
                f"workers has {least:.3g}: use lazy(of={self.topology})"
            )
        return {"x": x.clone(), "y": x.clone()}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the corrected average of each worker's neighbourhood."""
        start, y = state["x"], state["y"]
        corrected = start.sub_(y)  # 0 in the first round
        y.copy_(x)
        x = world.mix(x.add_(corrected), self.topology.matrix(world.K, now.s))
        start.copy_(x)
        return x, state

    def payload(self, model: ModelSize, K: int, now: Now) -> np.ndarray:
        """Return the bytes of one copy of the parameters for each neighbour, [K]."""
        return self.topology.sent(K, now.s) * model.nbytes
