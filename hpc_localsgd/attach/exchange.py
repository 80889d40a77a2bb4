"""An algorithm with its memory, applied to every group of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeAlias

import torch

from hpc_localsgd.attach.storage import Group
from hpc_localsgd.engine.position import distance_before
from hpc_localsgd.engine.state import moved
from hpc_localsgd.worlds.pending import Pending

if TYPE_CHECKING:
    from hpc_localsgd.algorithms.base import Algorithm
    from hpc_localsgd.tasks.buckets import Begin
    from hpc_localsgd.types import Now, Rows, State
    from hpc_localsgd.worlds.base import World

Rule: TypeAlias = "Callable[[Rows, State, World, Now], tuple[Rows, State]]"


class Exchange:
    """Calls of an algorithm's methods group by group: a row [1, P] has one dtype and device.

    Attributes:
        states: What the algorithm remembers of each group.
    """

    def __init__(self, algorithm: Algorithm, groups: Sequence[Group], world: World) -> None:
        self._algorithm, self._groups, self._world = algorithm, groups, world
        self.states: list[State] = []
        for group in groups:
            with group.rows() as x:
                self.states.append(algorithm.init(x, world, group.size))

    def acts_on_gradient(self, H: int) -> bool:
        """Return whether a round of H steps does anything with gradients."""
        return any(self._algorithm.acts_on_gradient(s, self._world, H) for s in self.states)

    def in_backward(self, now: Now) -> list[Begin] | None:
        """Return what begins averages during backward, for each group; None if one has none."""
        found = [self._algorithm.in_backward(state, self._world, now) for state in self.states]
        begins = [begin for begin in found if begin is not None]
        return begins if len(begins) == len(found) else None

    def on_step(self, now: Now) -> None:
        """Call `on_step` with the parameters, in place, where it does anything at this step."""
        if any(self._algorithm.acts_on_step(state, now) for state in self.states):
            self.on_parameters(self._algorithm.on_step, now)

    def on_sync(self, now: Now) -> None:
        """Call `on_sync` with the parameters, in place, where it does anything at this exchange."""
        if any(self._algorithm.acts_on_sync(state, now) for state in self.states):
            self.on_parameters(self._algorithm.on_sync, now)

    @torch.no_grad()
    def on_parameters(self, rule: Rule, now: Now) -> None:
        """Call `on_step` or `on_sync` with the parameters, in place."""
        for i, group in enumerate(self._groups):
            with group.rows() as x:
                self._call(rule, i, x, now)

    @torch.no_grad()
    def on_gradients(self, rows: Sequence[Rows], now: Now) -> None:
        """Call `on_gradient` with the gradients [1, P] of every group, in place."""
        for i, g in enumerate(rows):
            self._call(self._algorithm.on_gradient, i, g, now)

    def part_ways(self, now: Now) -> None:
        """Tell the algorithm of a round whose gradients stay where they are, without any."""
        rows = [torch.empty((1, 0), dtype=g.dtype, device=g.device) for g in self._groups]
        self.on_gradients(rows, now)

    @torch.no_grad()
    def to_mean(self) -> None:
        """Replace the parameters by the algorithm's model to evaluate. A collective, not billed."""
        for group, state in zip(self._groups, self.states, strict=True):
            with group.rows() as x:
                x[0] = self._algorithm.readout(x, state, self._world)

    def copies(self) -> list[Rows]:
        """Return copies of the parameters, [1, P] of every group."""
        copies = []
        for group in self._groups:
            with group.rows() as x:
                copies.append(x.clone())
        return copies

    def distance(self, before: Sequence[Rows]) -> float:
        """Return the consensus distance of the parameters that were before the exchange just done.

        Of this rank's shards, if it has shards: what several ranks of a worker hold counts once in
        their sum. A collective, not billed.
        """
        found = 0.0
        for x, group in zip(before, self._groups, strict=True):
            with group.rows() as after:
                apart = distance_before([x], [after], self._algorithm, self._world)
                found += apart / group.copies
        return found

    def wait(self) -> None:
        """Let exchanges that are under way end; their results are not used."""
        for state in self.states:
            for value in state.values():
                if isinstance(value, Pending):
                    value.wait()

    def saved(self) -> list[State]:
        """Return the states without what is under way, which `load` begins again."""
        return [
            {k: v for k, v in state.items() if not isinstance(v, Pending)} for state in self.states
        ]

    def load(self, saved: Sequence[State]) -> None:
        """Restore saved states; a collective."""
        self.wait()
        self.states = [
            self._algorithm.resume(moved(state, group.device, copy=True), self._world)
            for group, state in zip(self._groups, saved, strict=True)
        ]

    def _call(self, rule: Rule, i: int, x: Rows, now: Now) -> None:
        # The user's autocast is for the model, not for an average of it.
        kind = x.device.type
        on = torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False) if on else nullcontext():
            result, self.states[i] = rule(x, self.states[i], self._world, now)
        if result is not x:
            x.copy_(result)
