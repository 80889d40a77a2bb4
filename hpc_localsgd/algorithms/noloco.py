"""NoLoCo: outer steps in pairs, so that no worker ever waits for all others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology import Topology, random_pairs

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class NoLoCo(Algorithm):
    """Outer momentum with a pull to the peer of the round; phi is where the round began.

        d_k <- alpha d_k + beta mean_j (x_j - phi_j) + gamma (mean_j phi_j - phi_k)
        phi_k <- phi_k + d_k        x_k <- phi_k        mean over k and its peer, drawn anew

    Without gamma the workers would drift apart, since they are never all averaged; with alpha =
    0.5 and many workers the mean square of their spread stays bounded up to gamma = 1.5. A worker
    that stays alone (K odd) takes its outer step by itself.

    Source: Kolehmainen et al., NoLoCo, arXiv:2506.10911.
        alpha and beta as in the configurations of the released code (jkolehm/noloco), in which
        gamma is beta.
    Here differs: beta x + (gamma - beta) phi is sent, one vector for two; other graphs than random
        pairs are allowed.
    Sends: P numbers per worker and round (none by the one that stays alone).
    Equals: Gossip(topology=random_pairs()) when alpha = 0, beta = 1 and gamma = 1.

    Attributes:
        alpha: Outer momentum.
        beta: Outer learning rate.
        gamma: Pull to the peers.
        topology: Who meets; pairs follow from its seed and the round.
    """

    ends_equal = False
    may_begin_apart = True

    alpha: float = 0.5
    beta: float = 0.7
    gamma: float = 0.7
    topology: Topology = field(default_factory=random_pairs)

    def __post_init__(self) -> None:
        if not (0 <= self.alpha < 1 and self.beta > 0 and self.gamma > 0):
            raise ConfigurationError(
                "noloco: needs 0 <= alpha < 1, beta > 0 and gamma > 0, got "
                f"alpha {self.alpha}, beta {self.beta} and gamma {self.gamma}"
            )

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `phi` [R, P] and its momentum `d` [R, P]."""
        del model
        self.topology.matrix(world.K)  # raises if there is none for K workers
        return {"phi": x.clone(), "d": x.new_zeros(x.shape)}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return phi after an outer step with the peer."""
        phi, d = state["phi"], state["d"]
        x.mul_(self.beta).add_(phi, alpha=self.gamma - self.beta)
        world.mix(x, self.topology.matrix(world.K, now.s))
        d.mul_(self.alpha).add_(x).sub_(phi, alpha=self.gamma)
        x.copy_(phi.add_(d))
        return x, state

    def payload(self, model: ModelSize, K: int, now: Now) -> np.ndarray:
        """Return the bytes of one vector for each neighbour, [K]."""
        return self.topology.sent(K, now.s) * model.nbytes
