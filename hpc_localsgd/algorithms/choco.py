"""CHOCO-SGD: compressed gossip with a memory of what has been sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.compressed import coded_bytes
from hpc_localsgd.compressors.base import Compressor, codec_of_rows
from hpc_localsgd.compressors.top_k import TopK
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.topology import Topology, ring

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class Choco(Algorithm):
    """D-SGD that sends compressed differences from what it has sent before, `told`.

        q_k = C(x_k - told_k)        told_k <- told_k + q_k      heard_k <- heard_k + sum_j W_kj q_j
        x_k <- x_k + gamma (heard_k - told_k)                     after the local steps

    As x converges the differences vanish, and with them the error of C; compressed gossip without
    this memory stalls at that error. The mean of x is that of the local steps, for any C and gamma.

    Source: Koloskova, Stich, Jaggi, ICML 2019, arXiv:1902.00340, in the form that stores two
        vectors a worker, however many neighbours it has.
    Here differs: `told` begins at the parameters that all workers share, not at 0. The codec's own
        error feedback is not used, since `told` replaces it. Local steps between two exchanges are
        allowed. gamma and the share that is kept are our choice: the paper tunes gamma to the codec
        (its released code, on a ring of 9: 0.04 for the largest 1 %, 0.34 for 4-bit QSGD).
    Needs: a symmetric W that does not change.
    Sends: the code of P numbers per neighbour and round.
    Equals: Gossip when compressor = None and gamma = 1.

    Attributes:
        topology: Who mixes with whom.
        gamma: Step towards the neighbours; to be smaller the more C loses. The default suits the
            default codec.
        compressor: C; None sends the differences as they are.
    """

    ends_equal = False

    topology: Topology = field(default_factory=ring)
    gamma: float = 0.2
    compressor: Compressor | None = TopK(fraction=0.1)

    def __post_init__(self) -> None:
        codec_of_rows(self.compressor, "choco")
        if not 0 < self.gamma <= 1:
            raise ConfigurationError(
                f"choco: gamma must be above 0 and at most 1, got {self.gamma}: with 0 the "
                "workers never mix"
            )

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `told` and `heard` [R, P], a worker's own and its neighbourhood's.

        Raises:
            ConfigurationError: The graph changes or is directed.
        """
        W = self.topology.matrix(world.K)
        if self.topology.period(world.K) != 1 or not np.allclose(W, W.T):
            raise ConfigurationError(
                f"choco needs a symmetric graph that does not change, not {self.topology}"
            )
        return {"told": x.clone(), "heard": x.clone(), "sizes": model.sizes}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the parameters after a step of length gamma towards the neighbours."""
        told, heard, sizes = state["told"], state["heard"], state["sizes"]
        W = self.topology.matrix(world.K, now.s)
        q = x - told
        if self.compressor is None:
            told += q
            heard += world.mix(q, W)
        else:
            sent = self.compressor.encode(q, sizes)
            decode = partial(self.compressor.decode, sizes=sizes, dtype=x.dtype)
            told += decode(sent)
            heard += world.mix_codes(sent, W, decode)
        return x.add_(heard - told, alpha=self.gamma), state

    def payload(self, model: ModelSize, K: int, now: Now) -> np.ndarray:
        """Return the bytes of one code for each neighbour, [K]."""
        return self.topology.sent(K, now.s) * coded_bytes(self.compressor, model)
