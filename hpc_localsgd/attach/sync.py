"""What `attach` returns: rounds of local steps and their exchanges, counted by `sync.step()`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.attach.account import Account, Accounts
from hpc_localsgd.attach.agreement import shown, together
from hpc_localsgd.attach.estimate import Forward
from hpc_localsgd.attach.exchange import Exchange
from hpc_localsgd.attach.gradients import Gradients, Use, use_of_gradients
from hpc_localsgd.attach.intact import Intact
from hpc_localsgd.attach.mean import MeanModel
from hpc_localsgd.attach.meeting import AVERAGED, GRADIENTS, LOAD, ROUND, STEP, Meetings
from hpc_localsgd.attach.order import Order
from hpc_localsgd.attach.own import Own
from hpc_localsgd.attach.rates import Rates
from hpc_localsgd.attach.rounds import Lengths, Place, Rounds
from hpc_localsgd.attach.statistics import Statistics
from hpc_localsgd.attach.storage import Group
from hpc_localsgd.rollcall.notes import failed
from hpc_localsgd.types import ConfigurationError

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows
    from hpc_localsgd.worlds.base import World


@dataclass(frozen=True)
class Parts:
    """What a `Sync` is made of, checked and the same on all ranks."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    algorithm: Algorithm
    schedule: Lengths
    world: World
    meetings: Meetings
    groups: list[Group]
    frozen: list[nn.Parameter]
    statistics: Statistics
    steps: int | None
    bucket_bytes: int
    check_rounds: bool


class Sync:
    """Local SGD in a user's own loop: call `step` after every `optimizer.step()`.

    Attributes:
        model: The user's module, which holds this worker's own parameters.
        world: Who the workers are.
    """

    def __init__(self, parts: Parts, equal: bool) -> None:
        """Made by `attach`; `equal` says whether all workers start with the same parameters."""
        self._parts, self.model, self.world = parts, parts.model, parts.world
        self._rounds = Rounds(parts.schedule, parts.meetings, parts.steps)
        self._rounds.place.equal = equal
        self._rates = Rates(parts.schedule)
        self._exchange = Exchange(parts.algorithm, parts.groups, parts.world)
        self._mean = MeanModel(
            parts.model, parts.world, parts.groups, self._exchange, parts.statistics
        )
        self._accounts = Accounts(parts.world.ledger)
        self._use: Use = "own"
        self._away = False  # the model holds the mean parameters just now
        self._intact = Intact(parts.model, parts.optimizer, parts.groups, parts.frozen)
        self._order = Order(type(parts.model).__name__, parts.world.rank)
        self._on_step = type(parts.algorithm).on_step is not Algorithm.on_step
        self._before = parts.optimizer.register_step_pre_hook(self._before_step)
        self._gradients: Gradients | None = None
        self._watch_gradients()

    @property
    def t(self) -> int:
        """Optimiser steps taken so far, skipped ones included."""
        return self._place.t

    @property
    def ledger(self) -> Account:
        """What has been sent and how long it took, since attach, on this rank."""
        return self._accounts.until_now()

    def step(self) -> bool:
        """Count one optimiser step, and exchange when it ends a round.

        To be called once after every `optimizer.step()` (or `scaler.step(optimizer)`, which may
        have skipped it), on every rank, however many micro-batches the step had.

        Returns:
            Whether a round ended.

        Raises:
            ConfigurationError: The ranks are out of step, on all of them alike.
            RuntimeError: The run has ended, or the model holds the mean parameters.
        """
        self._refuse("step()")
        if self._place.due:
            self._begin_round(used=False)
        self._settle_gradients(skipped=True)
        self._order.counted(self._parts.optimizer)
        if self._gradients is not None:
            self._gradients.done = False
            self._watch_gradients()
        place = self._place
        place.t, place.equal = place.t + 1, False
        self._order.apart = True
        if not place.due:
            if self._on_step:
                with self._meet(STEP):
                    self._exchange.on_step(self._rounds.now(place.t - 1))
            return False
        last = place.t == self._parts.steps
        self._intact.check()
        with self._meet(ROUND):
            self._end_round(last)
            if last:
                self._end(warn=False)  # batches can still be given to averaged() or finish()
        return True

    def finish(self, batches: Iterable[Any] | None = None, forward: Forward | None = None) -> None:
        """End the run: a last exchange, after which every rank holds the mean model.

        Happens by itself when `steps` was given to `attach` and have been taken, and at the end of
        `with sync:`; calling it twice does no harm. All ranks must call it.

        Args:
            batches: This worker's training batches, to estimate BatchNorm statistics from.
            forward: Calls the model with a batch, as in `averaged`.
        """
        if self._away:
            self._refuse("finish()")
        if self._place.over:
            if batches is not None:
                self._mean.show(True, batches, forward)
            return
        self._order.check("finish()")
        if self._place.inside:
            self._intact.check()
        with self._meet(ROUND):
            if self._place.inside:
                self._place.end = self._place.t
                self._end_round(last=True)
            else:
                self._rounds.agree(finite=self._finite())
            self._end(batches, forward)

    @contextmanager
    def averaged(
        self, batches: Iterable[Any] | None = None, forward: Forward | None = None
    ) -> Iterator[nn.Module]:
        """The model with the mean parameters, to evaluate or save; then one's own again, bitwise.

        All ranks must enter it, and none may train in it. Not billed.

        Args:
            batches: This worker's training batches, from which BatchNorm statistics of the mean
                model are estimated. Without them the workers' statistics are averaged.
            forward: Calls the model with a batch: `lambda model, batch: model(batch["x"])`. By
                default the model is called with a batch that is a tensor, or with its first
                element. The batch's tensors are on the model's device.

        Yields:
            The model itself.

        Raises:
            ConfigurationError: The batches cannot be used, or the ranks' models have parameters
                or statistics of different shapes; on all ranks alike.
            RuntimeError: Already inside.
        """
        if self._away:
            raise RuntimeError("averaged() is already entered: the model holds the mean parameters")
        self._order.check("averaged()")
        own = Own(self.model, self._parts.groups)
        self._away = True
        try:
            with self._meet(AVERAGED):
                self._rounds.agree(AVERAGED, self._finite())
                self._mean.show(self._place.equal, batches, forward, own)
            yield self.model
        finally:
            self._away = False
            own.restore()

    def no_sync(self) -> AbstractContextManager[None]:
        """Around all backward passes of a step but the last: gradients are only accumulated.

        Matters in rounds of one step, where each backward pass would exchange otherwise (also
        right, since averaging is linear, but sent more often than needed).
        """
        return nullcontext() if self._gradients is None else self._gradients.pause()

    def detach(self) -> None:
        """Take all hooks off. The parameters stay where they are and the run is over."""
        self._parts.meetings.over()
        self._before.remove()
        if self._gradients is not None:
            self._gradients.remove()
        self._gradients, self._use = None, "own"
        self._place.over = True
        self._intact.over()
        self._order.over()

    def __enter__(self) -> Sync:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Finish; after an exception only detach, since the other ranks may not be here."""
        if kind is None:
            self.finish()
        else:
            self._parts.meetings.over(failed(error))
            self.detach()

    def __repr__(self) -> str:
        """Who, how, and where in the run."""
        parts = self._parts
        P = sum(group.P for group in parts.groups)
        of = f" of {parts.steps}" if parts.steps is not None else ""
        return (
            f"Sync({parts.algorithm}, {shown(parts.schedule)}, {parts.world}, P={P}, "
            f"step {self.t}{of}, {self._place})"
        )

    def state_dict(self) -> dict[str, Any]:
        """This rank's place in the run and the algorithm's memory, also in mid-round.

        Save it on every rank, beside that rank's own `model.state_dict()` and
        `optimizer.state_dict()`: between two exchanges the workers differ.
        """
        return {
            "place": asdict(self._place),
            "states": self._exchange.saved(),
            "rank": self.world.rank,
            "workers": self.world.size,
            "algorithm": repr(self._parts.algorithm),
            "fingerprints": [group.fingerprint() for group in self._parts.groups],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, after model and optimiser were loaded; on all ranks.

        Raises:
            ConfigurationError: It is of another job, another rank, or the model in memory is not
                the one it was saved with; on all ranks alike.
        """
        with self._meet(LOAD):
            together(self.world, lambda: self._check_state(state))
            self._rounds.place = place = Place(**state["place"])
            self._exchange.load(state["states"])
        if place.t:
            self._rates.resumed()
        self._order.taken = 0
        self._use = "own" if place.due else self._use_of_gradients(place.H)
        if place.over:
            self.detach()
        else:
            self._watch_gradients()

    @property
    def _place(self) -> Place:
        return self._rounds.place

    def _check_state(self, state: dict[str, Any]) -> None:
        now = (self.world.size, repr(self._parts.algorithm))
        then = (state["workers"], state["algorithm"])
        if now != then:
            raise ConfigurationError(
                f"the state is of {then[0]} workers of {then[1]}, this is {now[0]} of {now[1]}"
            )
        shared = state["place"]["equal"] and self._parts.algorithm.ends_equal
        if state["rank"] != self.world.rank and not shared:
            raise ConfigurationError(
                f"the state was saved by rank {state['rank']} between two exchanges, where workers "
                "differ: save and load model, optimizer and sync on every rank, each its own"
            )
        if state["fingerprints"] != [group.fingerprint() for group in self._parts.groups]:
            raise ConfigurationError(
                "the model does not hold the parameters this state was saved with: after attach, "
                "load this rank's own model, then its optimizer, then sync"
            )

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """The optimiser's pre-hook: the rate it uses is known, and gradients must be final."""
        if self._away:
            self._refuse("optimizer.step()")
        if self._place.due:
            self._begin_round(used=True)
        elif self._rates.watching:
            self._rates.see(self.t, self._rate())
        closure = len(args) != 1 or "closure" in kwargs  # the first argument is the optimiser
        self._order.took(optimizer, closure)
        if self._use == "algorithm" and getattr(optimizer, "found_inf", None) is not None:
            raise ConfigurationError(
                f"{self._parts.algorithm} needs the gradients without GradScaler's factor, and a "
                "fused optimizer takes it off inside its step: give it fused=False"
            )
        if not closure:
            self._settle_gradients()
        elif self._use == "algorithm":
            raise ConfigurationError(
                f"{self._parts.algorithm} needs the gradients before optimizer.step(), and a "
                "closure computes them inside: call backward() first and step() without a closure"
            )

    def _rate(self) -> float:
        return float(self._parts.optimizer.param_groups[0].get("lr", 0.0))

    def _begin_round(self, used: bool) -> None:
        """Find H and what it means for the gradients."""
        rate = self._rate()
        self._rates.see(self.t, rate)
        self._rounds.begin(rate, used)
        self._rates.say(self._place, self.world.rank)
        self._use = self._use_of_gradients(self._place.H)
        if self._use == "own":
            self._exchange.part_ways(self._rounds.now(self.t))

    def _end_round(self, last: bool) -> None:
        """The exchange that ends a round."""
        parts, place = self._parts, self._place
        together = self._use == "own" and parts.algorithm.ends_equal
        if last or (together and parts.check_rounds):
            self._rounds.agree(finite=self._finite())
        now = self._rounds.now(place.t - 1, last)
        self._exchange.on_parameters(parts.algorithm.on_sync, now)
        place.equal = parts.algorithm.ends_equal
        self._order.apart = not place.equal
        if self.world.rank == 0:
            self._intact.warn_of_others()
        parts.statistics.on_sync()
        self._accounts.close_round()

    def _end(
        self,
        batches: Iterable[Any] | None = None,
        forward: Forward | None = None,
        warn: bool = True,
    ) -> None:
        """After the last exchange: the model to keep, on every rank."""
        self._exchange.wait()
        self._mean.show(self._place.equal, batches, forward, warn=warn)
        self.detach()
        self._place.equal = True

    def _finite(self) -> bool:
        return all(group.finite() for group in self._parts.groups)

    def _meet(self, what: str) -> AbstractContextManager[None]:
        return self._parts.meetings.at(what, self.t)

    def _use_of_gradients(self, H: int) -> Use:
        state, K = self._exchange.states[0], self.world.size
        return use_of_gradients(self._parts.algorithm, state, H, K)

    def _use_now(self) -> Use:
        """What this step does with gradients; asked during backward."""
        if self._away:
            return "own"
        if self._place.due:
            self._begin_round(used=True)
        return self._use

    def _on_gradients(self, rows: list[Rows]) -> None:
        self._exchange.on_gradients(rows, self._rounds.now(self.t))

    def _watch_gradients(self) -> None:
        """Put hooks on the parameters while a round of one step may come, and take them off."""
        parts, may_come = self._parts, self._use_of_gradients(1) != "own"
        if may_come and self._gradients is None:
            self._gradients = Gradients(
                parts.groups,
                parts.world,
                parts.bucket_bytes,
                self._use_now,
                self._on_gradients,
                lambda: self._meet(GRADIENTS),
            )
        elif not may_come and self._gradients is not None:
            self._gradients.remove()
            self._gradients = None

    def _settle_gradients(self, skipped: bool = False) -> None:
        """Exchange gradients that no backward pass has: the other ranks are waiting for them."""
        if self._gradients is not None and self._use != "own" and not self._gradients.done:
            self._gradients.finish(skipped)

    def _refuse(self, what: str) -> None:
        """Say what cannot be done now.

        Raises:
            RuntimeError: If there is a reason.
        """
        if self._away:
            raise RuntimeError(f"{what} inside `with sync.averaged()`: its effect would be undone")
        if self._place.over:
            raise RuntimeError(
                f"{what} after the run has ended (by finish(), detach(), or all of the steps given "
                "to attach): call attach again to go on"
            )
