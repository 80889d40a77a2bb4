"""Streaming DiLoCo: the parameters exchanged a fragment at a time, while training continues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.tasks.fragments import cuts
from hpc_localsgd.types import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class StreamingDiLoCo(Algorithm):
    """DiLoCo with P_f fragments of whole tensors, one exchanged at the end of each round in turn.

        delta <- anchor_f - mean_k x_kf        anchor_f <- Nesterov(anchor_f, delta)
        x_kf <- keep_local x_kf + (1 - keep_local) anchor_f              `delay` steps later

    A fragment is exchanged every `fragments` rounds: with H_f steps between two exchanges of the
    same fragment give the schedule every(H_f / fragments), which spaces the offsets evenly. The
    exchange is begun at the end of the round and its result used `delay` steps into the next, so
    the network has that long. At the end of the run all fragments are exchanged at once.

    Source: Douillard et al., Streaming DiLoCo, arXiv:2501.18512 (offsets, delay tau, merge alpha).
    Here differs: fragments are contiguous runs of tensors of about equal length; the outer
        optimiser is SGD with Nesterov momentum; a compressor is not offered.
    Sends: the fragment, about P / fragments numbers per worker and round.
    Equals: DiLoCo when fragments = 1, delay = 0 and keep_local = 0.

    Attributes:
        fragments: P_f. At most the number of tensors.
        delay: tau, steps between begin and use; shorter than a round.
        keep_local: Weight of the worker's own parameters when the result arrives.
        lr: Outer learning rate.
        momentum: Outer Nesterov momentum.
    """

    ends_equal = False
    ends_its_own_way = True

    fragments: int = 2
    delay: int = 0
    keep_local: float = 0.0
    lr: float = 0.7
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigurationError(f"streaming_diloco: lr must be positive, got {self.lr}")
        if self.fragments < 1 or self.delay < 0 or not 0 <= self.keep_local < 1:
            raise ConfigurationError(
                "streaming_diloco: needs fragments >= 1, delay >= 0 and 0 <= keep_local < 1, "
                f"got {self.fragments}, {self.delay}, {self.keep_local}"
            )

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `anchor` [P], outer momentum `u` [P], bounds of the fragments."""
        del world
        at, u = cuts(model.sizes, self.fragments), x.new_zeros(x.shape[1])
        return {"anchor": x[0].clone(), "u": u, "cuts": at, "flying": -1, "begun": None}

    def acts_on_step(self, state: State, now: Now) -> bool:
        """Return whether an exchange that was begun `delay` steps ago is under way."""
        return bool(state["flying"] >= 0 and now.h + 1 >= self.delay)

    def on_step(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Use the result of the exchange under way, `delay` steps after it was begun."""
        del world
        return self._land(x, state) if self.acts_on_step(state, now) else (x, state)

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Begin the exchange of the fragment that is due; at the run's end, of all fragments."""
        if state["flying"] >= 0:  # a round shorter than the delay
            x, state = self._land(x, state)
        if now.last:
            for f in range(self.fragments):
                x, state = self._land(x, self._begin(x, state, world, f), keep_local=0.0)
            return x, state
        state = self._begin(x, state, world, now.s % self.fragments)
        return self._land(x, state) if self.delay == 0 else (x, state)

    def makes_equal(self, state: State, now: Now) -> bool:
        """Return whether this is the last exchange, which is of all fragments."""
        del state
        return now.last

    def resume(self, state: State, world: World) -> State:
        """Begin the exchange that was under way again, from what was sent."""
        if state["flying"] >= 0:
            return {**state, "begun": world.begin_mean(state["sent"])}
        return state

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of the fragment; in the last round, of all fragments."""
        del K
        if now.last:
            return model.nbytes
        at, f = cuts(model.sizes, self.fragments), now.s % self.fragments
        return (at[f + 1] - at[f]) * model.itemsize

    def _begin(self, x: Rows, state: State, world: World, f: int) -> State:
        sent = x[:, state["cuts"][f] : state["cuts"][f + 1]].clone()
        return {**state, "flying": f, "sent": sent, "begun": world.begin_mean(sent)}

    def _land(self, x: Rows, state: State, keep_local: float | None = None) -> tuple[Rows, State]:
        """Take the outer step on the fragment under way and merge it into every worker."""
        f, mean = state["flying"], state["begun"].wait()
        part = slice(state["cuts"][f], state["cuts"][f + 1])
        anchor, u = state["anchor"][part], state["u"][part]
        delta = anchor - mean
        u.mul_(self.momentum).add_(delta)
        anchor.sub_(delta + self.momentum * u, alpha=self.lr)
        keep = self.keep_local if keep_local is None else keep_local
        x[:, part] = keep * x[:, part] + (1 - keep) * anchor
        return x, {**state, "flying": -1, "begun": None, "sent": None}
