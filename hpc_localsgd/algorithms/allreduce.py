"""Parallel SGD: average the gradients at every step. What all others are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.compressed import compressed_mean
from hpc_localsgd.compressors.base import Compressor

if TYPE_CHECKING:
    from hpc_localsgd.types import Footprint, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class AllReduce(Algorithm):
    """Synchronous data-parallel training.

        g <- mean_k g_k        x <- optimiser(x, g)

    With `compressor=Sign()` this is EF-signSGD, which compresses the gradient (without the factor
    of the learning rate, so a decaying rate makes the memory count for more than it was).

    Source: what `hvd.DistributedOptimizer` and `DistributedDataParallel` do; Karimireddy et al.
        2019 for error feedback.
    Sends: P numbers per worker and step, whatever the schedule says; less with a compressor.
    Equals: LocalSGD with every(1).

    Attributes:
        compressor: How the gradient is coded; None sends it as it is.
    """

    compressor: Compressor | None = None
    ends_at_mean = True
    sends_gradients = True

    def init(self, x: Rows, world: World, model: Footprint) -> State:
        """`memory` [R, P]: what the codec lost so far."""
        del x, world
        return {"memory": None, "sizes": model.sizes}

    def on_gradient(self, g: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """The average gradient on every worker."""
        del now
        g, memory = compressed_mean(g, self.compressor, state["memory"], state["sizes"], world)
        return g, {**state, "memory": memory}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Nothing: equal workers that took equal steps are equal."""
        del world, now
        return x, state

    def payload(self, model: Footprint, K: int, now: Now) -> int:
        """One (coded) gradient a step."""
        del K
        codec = self.compressor
        return now.H * (codec.payload(model.sizes) if codec else model.nbytes)
