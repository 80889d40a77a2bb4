"""Overlap Local SGD: workers pulled towards an anchor whose average is computed meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class Overlap(Algorithm):
    """Overlap-Local-SGD: the average of the anchor z is under way from one exchange to the next.

        x_k <- (1 - pull) x_k + pull z
        v_k <- beta v_k + (z - x_k)        z_k <- z - v_k        begin z <- mean_k z_k

    Source: Wang et al., Overlap Local-SGD, ICASSP 2020, arXiv:2002.09539 (pull 0.6, beta 0.7).
    Here differs: v is in units of parameters, not of gradients (no division by the learning rate),
        so a decay does not rescale it; the run ends with the average of the workers.
    Sends: P numbers per worker and round, hidden by the next round.
    Equals: LocalSGD with one round for the whole run (one-shot averaging) when pull = 0.

    Attributes:
        pull: How far a worker is pulled to the anchor.
        beta: Momentum of the anchor.
    """

    ends_equal = False
    may_begin_apart = True
    last_exchange_differs = True

    pull: float = 0.6
    beta: float = 0.7

    def __post_init__(self) -> None:
        if not (0 <= self.pull <= 1 and 0 <= self.beta < 1):
            raise ConfigurationError(
                "overlap: needs 0 <= pull <= 1 and 0 <= beta < 1, got "
                f"pull {self.pull} and beta {self.beta}"
            )

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `z` [R, P] of every worker, `v` [R, P], and no exchange under way."""
        del world, model
        return {"z": x.clone(), "v": x.new_zeros(x.shape), "flying": False, "begun": None}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Pull the workers to the anchor that arrived, move it, and begin its next average."""
        z, v = state["z"], state["v"]
        if state["begun"] is not None:
            z[:] = state["begun"].wait()
        x.lerp_(z, self.pull)
        if now.last:
            return world.mean(x), {**state, "flying": False, "begun": None}
        v.mul_(self.beta).add_(z - x)
        z -= v
        return x, {**state, "flying": True, "begun": world.begin_mean(z)}

    def makes_equal(self, state: State, now: Now) -> bool:
        """Return whether this is the last exchange, whose average is waited for."""
        del state
        return now.last

    def resume(self, state: State, world: World) -> State:
        """Begin the average that was under way again, from each worker's z."""
        return {**state, "begun": world.begin_mean(state["z"]) if state["flying"] else None}

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of one copy of the parameters a round."""
        del K, now
        return model.nbytes
