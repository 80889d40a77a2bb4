"""SlowMo: an outer momentum step at each synchronisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.compressed import coded_bytes, coded_state, mean_of_parameters
from hpc_localsgd.compressors.base import Compression
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class SlowMo(Algorithm):
    """Slow momentum over Local SGD; `anchor` is where the round began, `lr` its learning rate.

        u <- beta u + (anchor - mean_k x_k) / lr        x_k <- anchor - alpha lr u

    With alpha = 1 this is block (BMUF) or global momentum; with a local optimiser that has momentum
    it is Lin et al.'s hybrid momentum.

    Source: Wang et al., SlowMo, ICLR 2020, arXiv:1910.00643. Its range for beta is 0.4-0.8.
    Here differs: divides by the rate of the round's first step, so a decay inside a round does not
        change the units of u; a round that began with a rate of 0 (a warm-up) only averages.
    Sends: P numbers per worker and round; with a compressor its code of anchor - x_k.
    Equals: LocalSGD(average="parameters") when beta = 0 and alpha = 1; with K = 1 and every(1),
        heavy ball with momentum beta.

    Attributes:
        alpha: Slow learning rate.
        beta: Slow momentum. fairscale advises 0, 0.2, 0.5, 0.6 for < 4, 4, 8, 16 nodes.
        compressor: How the differences are coded; None averages the parameters themselves.
    """

    alpha: float = 1.0
    beta: float = 0.5
    compressor: Compression | None = None

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and 0 <= self.beta < 1):
            raise ConfigurationError(
                "slowmo: needs alpha > 0 and 0 <= beta < 1, got "
                f"alpha {self.alpha} and beta {self.beta}"
            )

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `anchor` [P], the slow momentum `u` [P], and what the codec lost."""
        del world
        u = x.new_zeros(x.shape[1])
        return {"anchor": x[0].clone(), "u": u, **coded_state(self.compressor, x, model)}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the anchor moved by slow momentum, on every worker."""
        anchor, u = state["anchor"], state["u"]
        x, memory = mean_of_parameters(
            x, anchor, self.compressor, state["memory"], state["sizes"], world
        )
        if now.lr_round > 0:
            u.mul_(self.beta).add_(anchor - x[0], alpha=1 / now.lr_round)
            x[:] = anchor - self.alpha * now.lr_round * u
        anchor.copy_(x[0])
        return x, {**state, "memory": memory}

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of one (encoded) copy of the parameters a round."""
        del K, now
        return coded_bytes(self.compressor, model)
