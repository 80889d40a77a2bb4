"""Local SGD: H local steps, then the average of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hpc_localsgd.algorithms.base import Algorithm, overlapped_mean
from hpc_localsgd.algorithms.compressed import coded_bytes, coded_state, mean_of_parameters
from hpc_localsgd.compressors.base import Compression

if TYPE_CHECKING:
    from hpc_localsgd.tasks.buckets import Begin
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class LocalSGD(Algorithm):
    """Local SGD; with the schedule `post_local` Post-local SGD, with `qsr` the quadratic rule.

        x_k <- optimiser(x_k, g_k(x_k))    H times        x_k <- mean_j x_j

    With a compressor C, in the difference form of Lin et al. (c is the last average):

        c <- c - mean_j C(c - x_j + memory_j)             x_k <- c

    Source: Stich, ICLR 2019; Lin et al., ICLR 2020 (also local sign and EF-sign SGD); Gu et al.,
        ICLR 2023.
    Here differs: a round of length 1 averages the gradient instead of the parameters while all
        workers are exactly equal, which is right for Adam too and can overlap with the backward
        pass. Once local steps have made the momentum buffers differ, rounds of length 1 average
        the parameters. The decoded differences are averaged, mean(scale sign).
    Sends: P numbers per worker and round; with a compressor its code, except in parallel rounds.
    Equals: AllReduce with every(1).

    Attributes:
        average: In rounds of length 1, "gradients" or "parameters". The same parameters for SGD
            with momentum (both are linear), not for Adam; with "parameters" the workers enter the
            local phase with momenta of their own.
        compressor: How the difference is coded; None averages the parameters themselves.
    """

    average: Literal["gradients", "parameters"] = "gradients"
    compressor: Compression | None = None

    @property
    def ends_at_mean(self) -> bool:  # type: ignore[override]
        """Whether an exchange ends at the mean: unless a codec rounds the differences."""
        return self.compressor is None

    def begins_equal(self, H: int) -> bool:
        """Return whether averaged gradients or coded differences require equal workers."""
        return self.compressor is not None or (self.average == "gradients" and H == 1)

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `parallel` is true until local steps make the workers differ."""
        del world
        anchor = x[0].clone() if self.compressor else None
        parallel = self.average == "gradients"
        coded = coded_state(self.compressor, x, model)
        return {"parallel": parallel, "anchor": anchor, **coded}

    def on_gradient(self, g: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the average gradient in the parallel phase, after it each worker's own."""
        parallel = state["parallel"] and now.H == 1
        return (world.mean(g) if parallel else g), {**state, "parallel": parallel}

    def in_backward(self, state: State, world: World, now: Now) -> Begin | None:
        """Return the plain average in the parallel phase; it can be begun part by part."""
        return overlapped_mean(world) if state["parallel"] and now.H == 1 else None

    def acts_on_gradient(self, state: State, world: World, H: int) -> bool:
        """Return whether this is the parallel phase of several workers."""
        return world.K > 1 and state["parallel"] and H == 1

    def acts_on_sync(self, state: State, now: Now) -> bool:
        """Return whether there is an average to take, or in the parallel phase an anchor."""
        del now
        derived = type(self).on_sync is not LocalSGD.on_sync
        return derived or not state["parallel"] or state["anchor"] is not None

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the average parameters on every worker."""
        del now
        anchor, memory = state["anchor"], state["memory"]
        if state["parallel"]:
            if anchor is not None:
                anchor.copy_(x[0])
            return x, state
        x, memory = mean_of_parameters(x, anchor, self.compressor, memory, state["sizes"], world)
        if anchor is not None:
            anchor.copy_(x[0])
        return x, {**state, "memory": memory}

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of one copy of the parameters, encoded after the parallel phase."""
        del K
        parallel = now.parallel and self.average == "gradients"
        return model.nbytes if parallel else coded_bytes(self.compressor, model)
