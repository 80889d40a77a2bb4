"""Streaming DiLoCo: the parameters exchanged a fragment at a time, while training continues."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm, nesterov_step
from hpc_localsgd.algorithms.compressed import coded_bytes, coded_state, mean_of_part, tensors_of
from hpc_localsgd.compressors.base import Compression
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.fragments import fragment

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class StreamingDiLoCo(Algorithm):
    """DiLoCo with P_f fragments of whole tensors, one exchanged at the end of each round in turn.

        delta <- anchor_f - mean_k x_kf        anchor_f <- Nesterov(anchor_f, delta)
        x_kf <- keep_local x_kf + (1 - keep_local) anchor_f              `delay` steps later

    A fragment is exchanged every `fragments` rounds, all at the end of the run; every(H_f /
    fragments) gives H_f steps in between. An exchange may take as long as `delay` steps.

    Source: Douillard et al., Streaming DiLoCo, arXiv:2501.18512 (offsets, delay tau, merge alpha).
    Here differs: fragments are contiguous runs of tensors of about equal length; the outer
        optimiser is SGD with Nesterov momentum. Compressed exchanges are not overlapped.
    Sends: the fragment, about P / fragments numbers per worker and round, or its code.
    Equals: DiLoCo when fragments = 1, delay = 0 and keep_local = 0.

    Attributes:
        fragments: P_f. At most the number of tensors.
        delay: tau, steps from the beginning of an exchange to the use of its result; below a round.
        keep_local: Weight of the worker's own parameters when the result arrives.
        lr: Outer learning rate.
        momentum: Outer Nesterov momentum.
        compressor: How a fragment's differences are coded (the paper: E3M0).
    """

    ends_equal = False
    last_exchange_differs = True

    fragments: int = 2
    delay: int = 0
    keep_local: float = 0.0
    lr: float = 0.7
    momentum: float = 0.9
    compressor: Compression | None = None

    def __post_init__(self) -> None:
        positive = self.lr > 0 and self.fragments >= 1 and self.delay >= 0
        if not (positive and 0 <= self.keep_local < 1):
            wanted = "lr must be positive, fragments >= 1, delay >= 0 and 0 <= keep_local < 1"
            raise ConfigurationError(f"streaming_diloco: {wanted}, got {self}")

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `anchor` and outer momentum `u` [P], what the codec lost [R, P]."""
        del world
        fragment(model.sizes, self.fragments, 0)  # raises if there are too many
        kept = {"anchor": x[0].clone(), "u": x.new_zeros(x.shape[1])}
        return {**kept, **coded_state(self.compressor, x, model), "flying": -1, "begun": None}

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
                x, state = replace(self, keep_local=0.0)._land(x, self._begin(x, state, world, f))
            return x, state
        state = self._begin(x, state, world, now.s % self.fragments)
        return self._land(x, state) if self.delay == 0 else (x, state)

    def makes_equal(self, state: State, now: Now) -> bool:
        """Return whether this is the last exchange, which is of all fragments."""
        del state
        return now.last

    def resume(self, state: State, world: World) -> State:
        """Begin the exchange that was under way again, from what was sent."""
        begins = state["flying"] >= 0 and self.compressor is None
        return {**state, "begun": world.begin_mean(state["sent"])} if begins else state

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of the (encoded) fragment; in the last round, of all fragments."""
        del K
        due = range(self.fragments) if now.last else [now.s % self.fragments]
        tensors = tensors_of(self.compressor, model)
        parts = [fragment(tensors, self.fragments, f)[1] for f in due]
        return sum(coded_bytes(self.compressor, model, part) for part in parts)

    def _begin(self, x: Rows, state: State, world: World, f: int) -> State:
        part, sizes = fragment(state["sizes"], self.fragments, f)
        sent, memory = x[:, part].clone(), None
        if self.compressor is not None:
            sent, memory = mean_of_part(sent, state, self.compressor, part, sizes, world)
        return self.resume({**state, "flying": f, "sent": sent, "memory": memory}, world)

    def _land(self, x: Rows, state: State) -> tuple[Rows, State]:
        """Take the outer step on the fragment under way and merge it into every worker."""
        part, _ = fragment(state["sizes"], self.fragments, state["flying"])
        anchor, u = state["anchor"][part], state["u"][part]
        delta = anchor - (state["sent"][0] if self.compressor else state["begun"].wait())
        nesterov_step(anchor, u, delta, self.lr, self.momentum)
        x[:, part] = self.keep_local * x[:, part] + (1 - self.keep_local) * anchor
        # Ranks saved on both sides of this step may meet in one process: codes are kept for both.
        return x, {**state, "flying": -1, "begun": None, "sent": self.compressor and state["sent"]}
