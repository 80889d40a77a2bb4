"""An attached run: rounds that begin and end, and the steps in them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.attach.backup import ModelBackup
from hpc_localsgd.attach.batchnorm_estimate import Forward
from hpc_localsgd.attach.call_order import CallOrder, only_makes_state
from hpc_localsgd.attach.collectives import ROUND, STEP
from hpc_localsgd.attach.comm_stats import CommCounter
from hpc_localsgd.attach.context import AttachContext
from hpc_localsgd.attach.exchange import Exchange
from hpc_localsgd.attach.integrity import ModelIntegrity
from hpc_localsgd.attach.mean_model import MeanModel
from hpc_localsgd.attach.other_tensors import warn_of_same_batches
from hpc_localsgd.attach.quarantine import Quarantine
from hpc_localsgd.attach.replicated import ReplicatedCheck
from hpc_localsgd.attach.rounds import AgreedRounds, AttachedPosition
from hpc_localsgd.attach.step_gradients import StepGradients
from hpc_localsgd.attach.warm_up import WarmUp
from hpc_localsgd.errors import ConfigurationError

LOOK_EVERY = 64  # steps between two looks at ranks that do not wait for all others anyway


class AttachedRun:
    """The state behind the calls of a `Sync`.

    Attributes:
        rounds: Where in the run we are.
        gradients: What the step does with them.
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
        self.accounts = CommCounter(context.world.ledger)
        self.integrity = ModelIntegrity(
            context.model, context.optimizer, context.groups, context.frozen
        )
        self.call_order = CallOrder(type(context.model).__name__, self._rank)
        self._replicated = ReplicatedCheck(context.groups, context.grid)
        self._quarantine = Quarantine(context) if context.on_nan == "quarantine" else None
        self._looked = False  # whether ranks train on data of their own
        self._on_step = type(context.algorithm).on_step is not Algorithm.on_step
        self._before = context.optimizer.register_step_pre_hook(self._before_step)
        self.gradients = StepGradients(
            context, self.rounds, self.exchange, self._quarantine, self.meet, self.mean_model.apart
        )

    @property
    def place(self) -> AttachedPosition:
        """Position in the run."""
        return self.rounds.place

    @property
    def away(self) -> bool:
        """Whether the model holds the mean parameters just now."""
        return self.gradients.away

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
            self.gradients.begin_round(used=False)
        self.gradients.settle(skipped=True)
        self.call_order.counted(self.context.optimizer)
        self.gradients.stepped()
        place = self.place
        place.t, place.equal = place.t + 1, False
        self.call_order.apart = True
        self.warm_up.cut(place, self.context.lr)
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
        local = self.gradients.use == "own" and context.check_rounds
        if last or self._quarantine or (local and (context.algorithm.ends_equal or self._look_due)):
            self.agree(ROUND)
        elif self.gradients.use == "mean" and place.t % LOOK_EVERY == 0:
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
        if found.alike and self.call_order.stepped and self._rank == 0 and self.context.lr > 0:
            warn_of_same_batches(self.place.t - self.place.begin)

    def _digest(self) -> int:
        """Return a digest of the parameters after the first round of local steps, else 0."""
        place = self.place
        if self._looked or self.gradients.use != "own" or place.H < 2 or place.t - place.begin < 2:
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
        self.gradients.end()
        self.place.over = True
        self.integrity.over()
        self.call_order.over()

    def resumed(self) -> None:
        """Continue from a place and state that have been loaded."""
        self.call_order.taken = 0
        self.gradients.resumed()
        if self.place.over:
            self.detach()

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Note the rate, and check that gradients are final: the optimiser's pre-hook."""
        if only_makes_state(optimizer):
            return
        if self.away:
            self.refuse("optimizer.step()")
        use = self.gradients.now()
        given = [*args[1:], *kwargs.values()]  # the first argument is the optimiser
        closure = any(each is not None for each in given)
        self.call_order.took(optimizer, closure)
        if use == "algorithm" and getattr(optimizer, "found_inf", None) is not None:
            raise ConfigurationError(
                f"{self.context.algorithm} needs the gradients without GradScaler's factor, and a "
                "fused optimizer takes it off inside its step: give it fused=False"
            )
        if not closure:
            self.gradients.settle()
        elif use == "algorithm":
            raise ConfigurationError(
                f"{self.context.algorithm} needs the gradients before optimizer.step(), and a "
                "closure computes them inside: call backward() first and step() without a closure"
            )
