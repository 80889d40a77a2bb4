"""Local steps along the sign of the momentum, as in Lin et al.'s local sign SGD."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.compressed import coded_bytes, coded_state, mean_of_parameters
from hpc_localsgd.compressors.base import Compression
from hpc_localsgd.compressors.sign import Sign
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class LocalSignMomentum(Algorithm):
    """Local sign SGD: every step is along the sign of the worker's momentum; c is the last average.

        u_k <- momentum u_k + g_k        d_k = g_k + momentum u_k  (Nesterov), else u_k
        x_k <- x_k - lr sign(d_k)                                                        H times
        c <- c - mean_j C(c - x_j + memory_j)            x_k <- c

    C sends one bit a number and a scale for each tensor. Rounds of one step are sign SGD, whose
    signs are averaged: C is exact there, except where a gradient is exactly 0. Combine it with
    plain steps (`--optimizer SGD --optimizer.momentum 0`) and a learning rate as for Adam, since
    every parameter moves by `lr` in a step.

    Lin et al.'s other method, local EF-sign SGD, takes plain steps and codes only what is sent:
    that is LocalSGD(average="parameters", compressor=Sign()).

    Source: Lin et al., ICLR 2020, arXiv:1808.07217, and its released code.
    Here differs: decoded differences are averaged, mean(scale sign), as everywhere in this package,
        where the released code has mean(scale) mean(sign). `Sign(error_feedback=True)` is ours: the
        paper combines a memory with plain steps only. Weight decay is the optimiser's (decoupled);
        the released code adds it to the gradient. No majority vote. The workers' momenta are never
        exchanged; `--momentum-at-sync` concerns the optimiser's.
    Sends: the code of P numbers per worker and round: P / 8 bytes, and 4 for each tensor.
    Equals: itself without a compressor, of plain steps, every(1) and gradients that have no 0.
    Not finite: a gradient's NaN or infinity is a NaN of the step; the sign alone would hide it.

    Attributes:
        momentum: Of the gradients of one worker, never exchanged; 0 takes their own signs.
        nesterov: Look ahead by one step of the momentum, as in the released commands.
        compressor: How the differences are coded; None averages the parameters themselves.
    """

    momentum: float = 0.9
    nesterov: bool = True
    compressor: Compression | None = field(default_factory=lambda: Sign(error_feedback=False))

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ConfigurationError(
                f"local_sign_momentum: needs 0 <= momentum < 1, got {self.momentum}"
            )

    @property
    def ends_at_mean(self) -> bool:  # type: ignore[override]
        """Whether an exchange ends at the mean: unless a codec rounds the differences."""
        return self.compressor is None

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: momenta `u` [R, P], `anchor` [P], and what the codec lost."""
        del world
        started = {"u": x.new_zeros(x.shape), "anchor": x[0].clone()}
        return {**started, **coded_state(self.compressor, x, model)}

    def on_gradient(self, g: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the signs of the workers' momenta [R, P]."""
        del world, now
        u = state["u"].mul_(self.momentum).add_(g)
        ahead = g.add_(u, alpha=self.momentum) if self.nesterov else g.copy_(u)
        signs = ahead.sign()
        return ahead.mul_(0).add_(signs), state  # 0 times what is not finite is NaN

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the average of the coded differences, taken from the anchor, on every worker."""
        del now
        anchor, codec, memory = state["anchor"], self.compressor, state["memory"]
        x, memory = mean_of_parameters(x, anchor, codec, memory, state["sizes"], world)
        anchor.copy_(x[0])
        broken = ~state["u"].isfinite().all(dim=1, keepdim=True)
        state["u"].masked_fill_(broken, 0.0)  # a worker in quarantine starts again here
        return x, {**state, "memory": memory}

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of one (encoded) copy of the parameters a round."""
        del K, now
        return coded_bytes(self.compressor, model)
