"""Decentralised SGD (D-SGD, DPSGD): every worker mixes with its neighbours only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.topology import Topology, ring

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class Gossip(Algorithm):
    """Gossip averaging over a graph with mixing matrix W (doubly stochastic, may change in time).

        adapt then combine (ATC):          x_k <- sum_j W_kj (x_j - lr g_j(x_j))
        adapt while communicating (AWC):   x_k <- sum_j W_kj x_j - lr g_k(x_k)

    ATC is the default: AWC needs lr curvature < 1 + lambda_min(W), 2/3 on an even ring, and fails
    at the large rates where Zhang et al. see decentralised training win.

    Source: Lian et al., NeurIPS 2017; Zhang et al., arXiv:2112.01433; Zhu et al., ICML 2023 (its
        code is AWC).
    Here differs: local steps (H > 1) between two mixes are allowed.
    Sends: P numbers per neighbour and round.
    Equals: LocalSGD(average="parameters") on the complete graph with ATC.

    Attributes:
        topology: Who mixes with whom.
        order: "atc" or "awc".
    """

    ends_equal = False
    may_begin_apart = True

    topology: Topology = field(default_factory=ring)
    order: Literal["atc", "awc"] = "atc"

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: with AWC, `before` [R, P], the parameters at the round's beginning."""
        del model
        self.topology.matrix(world.K)  # raises if there is none for K workers
        return {"before": x.clone()} if self.order == "awc" else {}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the average of each worker's neighbourhood."""
        W = self.topology.matrix(world.K, now.s)
        if self.order == "atc":
            return world.mix(x, W), state
        before = state["before"]
        x -= before  # what the local steps did
        x += world.mix(before, W)
        before.copy_(x)
        return x, state

    def payload(self, model: ModelSize, K: int, now: Now) -> np.ndarray:
        """Return the bytes of one copy of the parameters for each neighbour, [K]."""
        return self.topology.sent(K, now.s) * model.nbytes
