"""CoCoD-SGD: the average computed while the next round runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class CoCoD(Algorithm):
    """Computation and communication decoupled: the average of an exchange is used one round later.

        x_k <- A + (x_k - sent_k)        A = mean_j sent_j, under way since the last exchange
        sent_k <- x_k                    begin mean_j sent_j

    Source: Shen et al., Faster distributed deep net training, IJCAI 2019.
    Here differs: the last exchange of the run is waited for, so that all workers end equal.
    Sends: P numbers per worker and round, hidden by the next round.
    Equals: LocalSGD when K = 1.
    """

    ends_equal = False
    may_begin_apart = True
    last_exchange_differs = True

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return a state without an exchange under way: all workers are equal."""
        del x, world, model
        return {"sent": None, "begun": None}

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Add what the round did to the previous exchange's average, and begin the next."""
        if state["begun"] is not None:
            x.sub_(state["sent"]).add_(state["begun"].wait())
        if now.last:
            return world.mean(x), {"sent": None, "begun": None}
        return x, {"sent": x.clone(), "begun": world.begin_mean(x)}

    def makes_equal(self, state: State, now: Now) -> bool:
        """Return whether this is the last exchange, whose average is waited for."""
        del state
        return now.last

    def resume(self, state: State, world: World) -> State:
        """Begin the average that was under way again, from what was sent."""
        if state["sent"] is None:
            return state
        return {**state, "begun": world.begin_mean(state["sent"])}

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of one copy of the parameters a round."""
        del K, now
        return model.nbytes
