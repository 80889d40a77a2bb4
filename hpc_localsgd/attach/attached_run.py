"""An attached run: rounds that begin and end, and what happens to gradients."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.attach.account import Accounts
from hpc_localsgd.attach.backup import ModelBackup
from hpc_localsgd.attach.batchnorm_estimate import Forward
from hpc_localsgd.attach.call_order import CallOrder, only_makes_state
from hpc_localsgd.attach.collectives import GRADIENTS, ROUND, STEP
from hpc_localsgd.attach.context import AttachContext
from hpc_localsgd.attach.exchange import Exchange
from hpc_localsgd.attach.gradient_hooks import GradientHooks, Use
from hpc_localsgd.attach.integrity import ModelIntegrity
from hpc_localsgd.attach.mean_model import MeanModel
from hpc_localsgd.attach.other_tensors import warn_of_same_batches
from hpc_localsgd.attach.quarantine import Quarantine
from hpc_localsgd.attach.replicated import ReplicatedCheck
from hpc_localsgd.attach.rounds import AgreedRounds, AttachedPosition
from hpc_localsgd.attach.warm_up import WarmUp
from hpc_localsgd.errors import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.tasks.buckets import Begin
    from hpc_localsgd.types import Rows

LOOK_EVERY = 64  # steps between two looks at ranks that do not wait for all others anyway


class AttachedRun:
    """The state behind the calls of a `Sync`.

    Attributes:
        rounds: Where in the run we are.
        use: What the step does with gradients.
        away: Whether the model holds the mean parameters just now.
    """

    def __init__(self, context: AttachContext, equal: bool) -> None:
        """Begin; `equal` says whether all workers start with the same parameters."""
        self.context, self.world = context, context.world
        self._rank = context.grid.everyone.rank
        self.warm_up = WarmUp(context.schedule)
        self.rounds = AgreedRounds(context, self.warm_up.in_warm_up)
        self.rounds.place.equal = equal
        self.exchange = Exchange(context.algorithm, context.groups, context.world)
        self.mean_model = MeanModel(
            context.model, context.grid, context.groups, self.exchange, context.statistics
        )
        self.accounts = Accounts(context.world.ledger)
        self.use: Use = "own"
        self._begins: list[Begin] = []  # of averages, where they are begun during backward
        self._decided = -1  # the step for which `use` holds
        self.away = False
        self.integrity = ModelIntegrity(
            context.model, context.optimizer, context.groups, context.frozen
        )
        self.call_order = CallOrder(type(context.model).__name__, self._rank)
        self._replicated = ReplicatedCheck(context.groups, context.grid)
        self._quarantine = Quarantine(context) if context.on_nan == "quarantine" else None
        self._looked = False  # whether ranks train on data of their own
        self._on_step = type(context.algorithm).on_step is not Algorithm.on_step
        self._before = context.optimizer.register_step_pre_hook(self._before_step)
        self.gradients: GradientHooks | None = None
        self.watch_gradients()

    @property
    def place(self) -> AttachedPosition:
        """Position in the run."""
        return self.rounds.place

    def meet(self, what: str) -> AbstractContextManager[None]:
        """Return the context of an operation in which all ranks meet."""
        return self.context.collectives.at(what, self.place.t)

    def refuse(self, what: str) -> None:
        """Refuse a call that is not possible now.

        Raises:
            RuntimeError: If there is a reason.
        """
        if self.away:
            raise RuntimeError(f"{what} inside `with sync.averaged()`: its effect would be undone")
        if self.place.over:
            raise RuntimeError(
                f"{what} after the run has ended (by finish(), detach(), or all of the steps given "
                "to attach): call attach again to continue"
            )

    def count(self) -> bool:
        """Count a step of the optimiser, and end the round if it was its last.

        Returns:
            Whether a round ended.
        """
        if self.place.due:
            self._begin_round(used=False)
        self.settle_gradients(skipped=True)
        self.call_order.counted(self.context.optimizer)
        if self.gradients is not None:
            self.gradients.done = self.gradients.added = False
            self.watch_gradients()
        place = self.place
        place.t, place.equal = place.t + 1, False
        self.call_order.apart = True
        self.warm_up.cut(place, self._rate())
        if not place.due:
            self.warm_up.say(place, self._rank)
            if self._on_step:
                self.context.reshard()
                with self.meet(STEP):
                    self.exchange.on_step(self.rounds.now(place.t - 1))
            return False
        last = place.t == self.context.steps
        self.context.reshard()
        self.integrity.check(self.call_order.stepped)
        with self.meet(ROUND):
            self.end_round(last)
            if last:
                self.end(warn=False)  # batches can still be given to averaged() or finish()
        return True

    def end_round(self, last: bool) -> None:
        """Make the exchange that ends a round."""
        context, place = self.context, self.place
        local = self.use == "own" and context.check_rounds
        if last or self._quarantine or (local and (context.algorithm.ends_equal or self._look_due)):
            self.agree(ROUND)
        elif self.use == "mean" and place.t % LOOK_EVERY == 0:
            context.check_finite(place.t, LOOK_EVERY)
        self._replicated.look()
        now = self.rounds.now(place.t - 1, last)
        observes = self.rounds.schedule.observes and not last
        before = self.exchange.copies() if observes else None
        self.exchange.on_sync(now)
        if before is not None:
            distance = context.grid.total(self.exchange.distance(before))
            self.rounds.schedule = self.rounds.schedule.observe(distance)
        place.equal = context.algorithm.ends_equal
        self.call_order.apart = not place.equal
        if self._rank == 0:
            self.integrity.warn_of_others()
        context.statistics.on_sync()
        self.call_order.stepped = False
        self.accounts.close_round()

    @property
    def _look_due(self) -> bool:
        """Whether the round passes a multiple of so many steps.

        Where workers wait for neighbours, or for averages of the round before, a comparison of all
        at every exchange would have all wait for the slowest.
        """
        return self.place.t // LOOK_EVERY > self.place.begin // LOOK_EVERY

    def agree(self, what: str, backup: ModelBackup | None = None) -> None:
        """Stop with an error where ranks are in different places, or numbers not finite.

        In quarantine, ranks whose numbers are not finite are given the mean of the others instead.

        Args:
            what: The operation in which they are.
            backup: What is given back later, if anything.
        """
        tolerant = self._quarantine is not None
        found = self.rounds.agree(what, self.context.finite(), tolerant, self._digest())
        if self._quarantine is not None:
            where = f"{what} after step {self.place.t - 1}"
            bad = self.context.grid.workers_of(found.non_finite)
            self._quarantine.of_models(bad, where, backup)
        if found.alike and self.call_order.stepped and self._rank == 0 and self._rate() > 0:
            warn_of_same_batches(self.place.t - self.place.begin)

    def _digest(self) -> int:
        """Return a digest of the parameters after the first round of local steps, else 0."""
        place = self.place
        if self._looked or self.use != "own" or place.H < 2 or place.t - place.begin < 2:
            return 0
        self._looked = True
        return 1 + sum(group.fingerprint() for group in self.context.groups) % 2**51

    def end(
        self,
        batches: Iterable[Any] | None = None,
        forward: Forward | None = None,
        warn: bool = True,
    ) -> None:
        """Leave the model to keep on every rank, after the last exchange."""
        self.exchange.wait()
        self.mean_model.show(self.place.equal, batches, forward, warn=warn)
        self.detach()
        self.place.equal = True

    def detach(self) -> None:
        """Take all hooks off; the run is over."""
        self.context.collectives.over()
        self._before.remove()
        if self.gradients is not None:
            self.gradients.remove()
        self.gradients, self.use, self.place.over = None, "own", True
        self.integrity.over()
        self.call_order.over()

    def resumed(self) -> None:
        """Continue from a place and state that have been loaded."""
        self.call_order.taken = 0
        self.use, self._decided = "own", -1
        if not self.place.due:
            self._decide()
        if self.place.over:
            self.detach()
        else:
            self.watch_gradients()

    def watch_gradients(self) -> None:
        """Put hooks on the parameters while a round of one step may come, and take them off."""
        may_come = self.exchange.acts_on_gradient(1)
        if may_come and self.gradients is None:
            self.gradients = GradientHooks(
                self.context.groups,
                self.context.bucket_bytes,
                self._use_now,
                lambda: self._begins,
                self._on_gradients,
                lambda: self.meet(GRADIENTS),
                lambda skipped: self.context.left_out(self.place.H, skipped),
                None if self._quarantine is None else self._make_finite,
            )
        elif not may_come and self.gradients is not None:
            self.gradients.remove()
            self.gradients = None

    def settle_gradients(self, skipped: bool = False) -> None:
        """Exchange gradients that no backward pass has: the other ranks are waiting for them."""
        hooks = self.gradients
        if hooks is not None and hooks.to_settle(skipped) and self._use_now() != "own":
            hooks.finish(skipped)

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Note the rate, and check that gradients are final: the optimiser's pre-hook."""
        if only_makes_state(optimizer):
            return
        if self.away:
            self.refuse("optimizer.step()")
        self._use_now()
        given = [*args[1:], *kwargs.values()]  # the first argument is the optimiser
        closure = any(each is not None for each in given)
        self.call_order.took(optimizer, closure)
        if self.use == "algorithm" and getattr(optimizer, "found_inf", None) is not None:
            raise ConfigurationError(
                f"{self.context.algorithm} needs the gradients without GradScaler's factor, and a "
                "fused optimizer takes it off inside its step: give it fused=False"
            )
        if not closure:
            self.settle_gradients()
        elif self.use == "algorithm":
            raise ConfigurationError(
                f"{self.context.algorithm} needs the gradients before optimizer.step(), and a "
                "closure computes them inside: call backward() first and step() without a closure"
            )

    def _rate(self) -> float:
        return float(self.context.optimizer.param_groups[0].get("lr", 0.0))

    def _begin_round(self, used: bool) -> None:
        """Find H and what it means for the gradients."""
        self.rounds.begin(self._rate(), used)
        self._decide()
        if not self.exchange.acts_on_gradient(self.place.H):
            self.exchange.part_ways(self.rounds.now(self.place.t))

    def _decide(self) -> None:
        """Find what the step that comes does with gradients, as the algorithm says."""
        self._decided, self.use = self.place.t, "own"
        if self.exchange.acts_on_gradient(self.place.H):
            begins = self.exchange.in_backward(self.rounds.now(self.place.t))
            self.use, self._begins = ("algorithm", []) if begins is None else ("mean", begins)

    def _use_now(self) -> Use:
        """Tell what this step does with gradients; asked during backward."""
        if self.away:
            return "own"
        if self.place.due:
            self._begin_round(used=True)
        elif self._decided != self.place.t:
            self._decide()
        return self.use

    def _on_gradients(self, rows: list[Rows]) -> None:
        self.exchange.on_gradients(rows, self.rounds.now(self.place.t))

    def _make_finite(self, rows: list[Rows]) -> None:
        if self._quarantine and self.context.algorithm.exchanges_gradients(self.place.H):
            self._quarantine.of_gradients(rows, self.place.t)
