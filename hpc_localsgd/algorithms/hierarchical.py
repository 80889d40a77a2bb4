"""Hierarchical Local SGD: average often within a node, rarely across nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.compressed import coded_bytes, coded_state, mean_of_parameters
from hpc_localsgd.compressors.base import Compression
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.types import ModelSize, Now, Rows, State
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class Hierarchical(Algorithm):
    """Two or more levels of averaging, each with its own period.

        every round:                      x_k <- mean over the workers of k's block
        every rounds[0] rounds:           x_k <- mean over the next larger block
        every prod(rounds) rounds:        x_k <- mean over all K workers

    The schedule gives H, the steps of a round. All K are averaged at the end of the run too.

    Source: Lin et al., ICLR 2020, section on hierarchical local SGD (two levels, H and H^b).
    Here differs: any number of levels; a larger average is taken in place of the smaller ones.
    Sends: P numbers per worker and round; across all workers, with a compressor, its code.
    Equals: LocalSGD(average="parameters") if rounds = (1,), or with parallel_first while H = 1.

    Attributes:
        blocks: Workers in a block at each level but the last, small to large, each dividing the
            next and the last dividing K. Empty: the workers of one host. A resumed run keeps the
            blocks it began with, whatever hosts it is on.
        rounds: For each level but the first, exchanges of the level below between two of its own.
        parallel_first: Whether each of the rounds of length 1 that a run begins with averages all
            workers, as the parallel phase of Post-local SGD does. They count as rounds either way:
            the next average over all may come sooner than after prod(rounds) rounds, never later.
        compressor: How the difference from the last average over all workers is coded for the next
            one, over the slower network; within blocks parameters are sent as they are.
    """

    ends_equal = False
    last_exchange_differs = True

    blocks: Sequence[int] = ()
    rounds: Sequence[int] = (4,)
    parallel_first: bool = False
    compressor: Compression | None = None

    def __post_init__(self) -> None:
        if len(self.rounds) != max(1, len(self.blocks)) or min(self.rounds) < 1:
            raise ConfigurationError(
                f"hierarchical: {len(self.blocks) or 1} block sizes need as many periods of at "
                f"least 1 round, got rounds={list(self.rounds)}"
            )
        if self.blocks and min(self.blocks) < 1:
            raise ConfigurationError(
                f"hierarchical: a block has at least 1 worker, got blocks={list(self.blocks)}"
            )

    def smoke(self) -> tuple[Hierarchical, int]:
        """Return it with blocks of 2, 4, ... workers, and a factor of their number."""
        blocks = tuple(2**level for level in range(1, len(self.blocks) + 1))
        return replace(self, blocks=blocks), 2 * blocks[-1] if blocks else 1

    def begins_equal(self, H: int) -> bool:
        """Return whether there is a codec: its differences are taken from where all are equal."""
        return self.compressor is not None

    def init(self, x: Rows, world: World, model: ModelSize) -> State:
        """Return the state: `levels`, the block sizes, the whole world last; the codec's."""
        levels = (*(self.blocks or (world.workers_per_host(),)), world.K)
        for small, large in zip(levels, levels[1:], strict=False):
            if large % small:
                raise ConfigurationError(
                    f"hierarchical: blocks of {small} do not divide {large} workers; give sizes "
                    "that divide each other and the number of workers"
                )
        for block in levels:
            world.ranks_of_block(block)
        anchor = x[0].clone() if self.compressor else None
        return {"levels": levels, "anchor": anchor, **coded_state(self.compressor, x, model)}

    def as_begun(self, state: State) -> Hierarchical:
        """Return it with the blocks of the hosts on which its run began."""
        levels = state.get("levels")
        if self.blocks or not isinstance(levels, tuple) or len(levels) != 2:
            return self
        return replace(self, blocks=levels[:1]) if type(levels[0]) is int else self

    def on_sync(self, x: Rows, state: State, world: World, now: Now) -> tuple[Rows, State]:
        """Return the average over the largest block that is due."""
        anchor, memory, level = state["anchor"], state["memory"], self.level(now)
        if anchor is None or level < len(self.rounds):
            return world.mean(x, state["levels"][level]), state
        x, memory = mean_of_parameters(x, anchor, self.compressor, memory, state["sizes"], world)
        anchor.copy_(x[0])
        return x, {**state, "memory": memory}

    def makes_equal(self, state: State, now: Now) -> bool:
        """Return whether all workers are averaged, not only those of a block."""
        return bool(state["levels"][self.level(now)] == state["levels"][-1])

    def level(self, now: Now) -> int:
        """Return the level that ends the round: 0 the smallest blocks, len(rounds) all workers."""
        if now.last or (self.parallel_first and now.parallel):
            return len(self.rounds)
        periods = accumulate(self.rounds, lambda a, b: a * b)
        return sum((now.s + 1) % period == 0 for period in periods)

    def payload(self, model: ModelSize, K: int, now: Now) -> int:
        """Return the bytes of one copy of the parameters a round (none from a block of one)."""
        if K == 1 or (self.level(now) == 0 and tuple(self.blocks)[:1] == (1,)):
            return 0
        return coded_bytes(self.compressor if self.level(now) == len(self.rounds) else None, model)
