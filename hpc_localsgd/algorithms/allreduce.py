"""Parallel SGD: average the gradients at every step. The baseline of all other algorithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm, overlapped_mean
from hpc_localsgd.algorithms.compressed import coded_bytes, coded_state, compressed_mean
from hpc_localsgd.compressors.base import Compression

if TYPE_CHECKING:
    from hpc_localsgd.tasks.buckets import Begin
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class AllReduce(Algorithm):
    """Synchronous data-parallel training.

        g <- mean_k g_k        x <- optimiser(x, g)

    With `compressor=Sign()` this is EF-signSGD, which compresses the gradient without the learning
    rate, so that after a decay of the rate the memory has more weight than it had.

    Source: what `hvd.DistributedOptimizer` and `DistributedDataParallel` do; Karimireddy et al.
        2019 for error feedback.
    Sends: P numbers per worker and step, whatever the schedule says; less with a compressor.
    Equals: LocalSGD with every(1).

    Attributes:
        compressor: How the gradient is coded; None sends it as it is.
    """

    compressor: Compression | None = None
    ends_at_mean = True
    sends_gradients = True

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `memory` [R, P], what the codec has lost so far."""
        del world
        return coded_state(self.compressor, x, model)

    def on_gradient(self, g: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the average gradient on every worker."""
        del now
        g, memory = compressed_mean(g, self.compressor, state["memory"], state["sizes"], world)
        return g, {**state, "memory": memory}

    def in_backward(self, state: State, world: World, now: Now) -> Begin | None:
        """Return the plain average, which can be begun for each part of the gradient by itself."""
        del state, now
        return overlapped_mean(world) if self.compressor is None else None

    def acts_on_gradient(self, state: State, world: World, H: int) -> bool:
        """Return whether there is another worker to average with, or a codec."""
        del state, H
        return world.K > 1 or self.compressor is not None

    def acts_on_sync(self, state: State, now: Now) -> bool:
        """Return False, unless a subclass does more in `on_sync`."""
        del state, now
        return type(self).on_sync is not AllReduce.on_sync

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return `x` as it is: equal workers that took equal steps are equal."""
        del world, now
        return x, state

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of one (encoded) gradient a step."""
        del K
        return now.H * coded_bytes(self.compressor, model)
