"""Push-sum (Stochastic Gradient Push): gossip over directed graphs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.topology import Topology, one_peer_exponential

if TYPE_CHECKING:
    import torch

    from hpc_localsgd.types import ModelSize, Now, Rows, State, Vector
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class PushSum(Algorithm):
    """Gossip with a matrix P whose columns sum to one, and whose rows need not.

        u_k <- w_k z_k + (x_k - z_k)        u <- P u        w <- P w        x_k = z_k <- u_k / w_k

    A worker sends shares of u, whose mean over the workers is preserved, and of its weight w, which
    is 1 at first; z = u / w is the model, where gradients are taken, and x - z what the local steps
    of the round did. Plain gossip along such a graph would converge to another weighted mean.

    Source: Assran et al., Stochastic gradient push, ICML 2019, arXiv:1811.10792; Nedic &
        Olshevsky, IEEE Trans. Automatic Control 2016.
    Here differs: all ranks know the graphs, so w is computed everywhere and not sent; local steps
        (H > 1) between two mixes are allowed.
    Sends: P numbers per neighbour and round.
    Equals: Gossip with the same topology, where its rows sum to one too.

    Attributes:
        topology: Who sends to whom; `random_directed` and directed graphs of one's own are
            accepted.
    """

    ends_equal = False
    may_begin_apart = True

    topology: Topology = field(default_factory=one_peer_exponential)

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `start` [R, P], z of the round's beginning, and `w` of all K workers.

        `w` is the same list on all ranks.
        """
        del model
        self.topology.push_matrix(world.K)  # raises if there is none for K workers
        return {"start": x.clone(), "w": [1.0] * world.K}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return each worker's mixed parameters, divided by its weight."""
        P = self.topology.push_matrix(world.K, now.s)
        w: list[float] = (P @ np.array(state["w"])).tolist()
        x = world.mix(_held(x, state, world), P)
        x.div_(_of_rank(w, x, world))
        state["start"].copy_(x)
        return x, {**state, "w": w}

    def readout(self, x: Rows, state: State, world: World) -> Vector:
        """Return the mean of u over the workers, [P]: that of the models weighted by w."""
        with world.ledger.unbilled():
            return world.mean(_held(x.clone(), state, world))[0]

    def payload(self, model: ModelSize, K: int, now: Now) -> np.ndarray:
        """Return the bytes of one copy of the parameters for each neighbour, [K]."""
        return self.topology.sent(K, now.s) * model.nbytes


def _held(x: Rows, state: State, world: World) -> Rows:
    """Return u = w z + (x - z) in the place of x."""
    return x.addcmul_(state["start"], _of_rank(state["w"], x, world) - 1)


def _of_rank(w: list[float], x: Rows, world: World) -> torch.Tensor:
    """Return the weights of the workers living here, [R, 1]."""
    return x.new_tensor([w[k] for k in world.local_workers])[:, None]
