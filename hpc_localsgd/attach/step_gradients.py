"""What a step does with gradients: decided when first needed, and done by hooks."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from hpc_localsgd.attach.collectives import GRADIENTS, RATE
from hpc_localsgd.attach.gradient_hooks import GradientHooks, Use
from hpc_localsgd.attach.shards import local

if TYPE_CHECKING:
    from hpc_localsgd.attach.context import AttachContext
    from hpc_localsgd.attach.exchange import Exchange
    from hpc_localsgd.attach.quarantine import Quarantine
    from hpc_localsgd.attach.rounds import AgreedRounds
    from hpc_localsgd.tasks.buckets import Begin
    from hpc_localsgd.types import Rows


class StepGradients:
    """The treatment of the gradients of each step, which the beginning of a round decides.

    Attributes:
        use: What the step does with gradients.
        hooks: On the parameters, while a round of one step may come.
        away: Whether the model holds the mean parameters just now, and nothing is trained.
    """

    def __init__(
        self,
        context: AttachContext,
        rounds: AgreedRounds,
        exchange: Exchange,
        quarantine: Quarantine | None,
        meet: Callable[[str], AbstractContextManager[None]],
        apart: Callable[[], bool],
    ) -> None:
        """Put the hooks on the parameters, if a round of one step may come.

        Args:
            context: The attached run.
            rounds: Where in the run we are.
            exchange: Says what the algorithm does with gradients.
            quarantine: Leaves out gradients that are not finite, if that was asked for.
            meet: Around what waits for the other ranks.
            apart: Says where ranks differ that should be equal. A collective.
        """
        self._context, self._rounds, self._exchange = context, rounds, exchange
        self._quarantine, self._meet, self._apart = quarantine, meet, apart
        self.use: Use = "own"
        self._begins: list[Begin] = []  # of averages, where they are begun during backward
        self._decided = -1  # the step for which `use` holds
        self.away = False
        self.hooks: GradientHooks | None = None
        self.watch()

    def begin_round(self, used: bool) -> None:
        """Find H and what it means for the gradients."""
        before = self.use
        self._rounds.begin(self._context.lr, used)
        self._decide()
        place = self._rounds.place
        if before == "mean" and self.use == "own":  # the next average hides that a rank strayed
            with self._meet(RATE), torch.no_grad():
                self._apart()
        if not self._exchange.acts_on_gradient(place.H):
            self._exchange.part_ways(self._rounds.now(place.t))

    def now(self) -> Use:
        """Tell what this step does with gradients; asked during backward."""
        if self.away:
            return "own"
        if self._rounds.place.due:
            self.begin_round(used=True)
        elif self._decided != self._rounds.place.t:
            self._decide()
        return self.use

    def settle(self, skipped: bool = False) -> None:
        """Exchange gradients that no backward pass has: the other ranks are waiting for them.

        Args:
            skipped: The optimiser does not take this step.

        Raises:
            RuntimeError: It does on other ranks.
        """
        hooks = self.hooks
        if hooks is None or not hooks.to_settle(skipped) or self.now() == "own":
            return
        missed = skipped and self.use == "mean" and not self._has_gradient()
        hooks.finish(skipped)
        if missed and self._has_gradient():
            raise RuntimeError(
                "sync.step() without optimizer.step() on this rank, in a round of one step: the "
                "others take it along the average of their gradients, and this rank would stay "
                "behind; where a batch is left out, call optimizer.step() all the same, which "
                "then takes their average"
            )

    def _has_gradient(self) -> bool:
        """Return whether any gradient here is neither zero nor (an overflow) not finite."""
        found = [p.grad for group in self._context.groups for p in group.parameters]
        sums = [float(local(g).abs().sum()) for g in found if g is not None]
        return any(sums) and all(map(math.isfinite, sums))

    def stepped(self) -> None:
        """Be ready for the gradients of the next step."""
        if self.hooks is not None:
            self.hooks.done = self.hooks.added = False
            self.watch()

    def resumed(self) -> None:
        """Continue from a place and state that have been loaded."""
        self.use, self._decided = "own", -1
        if not self._rounds.place.due:
            self._decide()
        if not self._rounds.place.over:
            self.watch()

    def end(self) -> None:
        """Take the hooks off; the run is over."""
        if self.hooks is not None:
            self.hooks.remove()
        self.hooks, self.use = None, "own"

    def watch(self) -> None:
        """Put hooks on the parameters while a round of one step may come, and take them off."""
        may_come = self._exchange.acts_on_gradient(1)
        if may_come and self.hooks is None:
            context = self._context
            self.hooks = GradientHooks(
                context.groups,
                context.bucket_bytes,
                self.now,
                lambda: self._begins,
                self._on_gradients,
                lambda: self._meet(GRADIENTS),
                lambda skipped: context.left_out(self._rounds.place.H, skipped),
                None if self._quarantine is None else self._make_finite,
            )
        elif not may_come and self.hooks is not None:
            self.hooks.remove()
            self.hooks = None

    def _decide(self) -> None:
        """Find what the step that comes does with gradients, as the algorithm says."""
        place = self._rounds.place
        self._decided, self.use = place.t, "own"
        if self._exchange.acts_on_gradient(place.H):
            begins = self._exchange.in_backward(self._rounds.now(place.t))
            self.use, self._begins = ("algorithm", []) if begins is None else ("mean", begins)

    def _on_gradients(self, rows: list[Rows]) -> None:
        self._exchange.on_gradients(rows, self._rounds.now(self._rounds.place.t))

    def _make_finite(self, rows: list[Rows]) -> None:
        place = self._rounds.place
        if self._quarantine and self._context.algorithm.exchanges_gradients(place.H):
            self._quarantine.of_gradients(rows, place.t)
