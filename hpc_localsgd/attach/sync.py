"""What `attach` returns: rounds of local steps and their exchanges, counted by `sync.step()`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, NoReturn

from torch import nn

from hpc_localsgd.attach.attached_run import AttachedRun
from hpc_localsgd.attach.backup import ModelBackup
from hpc_localsgd.attach.batchnorm_estimate import Forward
from hpc_localsgd.attach.collectives import AVERAGED, LOAD, ROUND
from hpc_localsgd.attach.comm_stats import CommStats
from hpc_localsgd.attach.context import AttachContext
from hpc_localsgd.attach.descriptions import shown
from hpc_localsgd.attach.rounds import AttachedPosition
from hpc_localsgd.attach.state_dict import check_saved, saved
from hpc_localsgd.engine.agreement import agree
from hpc_localsgd.run.rollcall.protocol import failed


class Sync:
    """Local SGD in a user's own loop: call `step` after every `optimizer.step()`.

    Attributes:
        model: The user's module, which holds this worker's own parameters.
        world: Who the workers are.
    """

    def __init__(self, context: AttachContext, equal: bool) -> None:
        """Begin; made by `attach`, and `equal` says whether all workers start alike."""
        self._context, self.model, self.world = context, context.model, context.world
        self._run = AttachedRun(context, equal)

    @property
    def t(self) -> int:
        """Number of optimiser steps so far, skipped ones included."""
        return self._run.place.t

    @property
    def ledger(self) -> CommStats:
        """What was sent and how long it took, since attach, on this rank."""
        return self._run.accounts.until_now()

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
        self._run.refuse("step()")
        return self._run.count()

    def finish(self, batches: Iterable[Any] | None = None, forward: Forward | None = None) -> None:
        """End the run: a last exchange, after which every rank holds the mean model.

        Happens automatically when the `steps` given to `attach` have been taken, and at the end of
        `with sync:`; calling it twice does no harm. All ranks must call it. After the end it only
        estimates statistics from `batches`, which is a collective too.

        Args:
            batches: This worker's training batches, to estimate BatchNorm statistics from; on all
                ranks or on none.
            forward: Calls the model with a batch, as in `averaged`.
        """
        run, place = self._run, self._run.place
        if run.away:
            run.refuse("finish()")
        if place.over:
            if batches is not None:
                run.mean_model.show(True, batches, forward)
            return
        run.call_order.check("finish()")
        self._context.reshard()
        if place.inside:
            run.integrity.check()
        elif not place.equal:
            run.integrity.check_memory()
        with run.meet(ROUND):
            if place.inside:
                place.end = place.t
                run.end_round(last=True)
            else:
                run.agree(ROUND)
            run.end(batches, forward)

    @contextmanager
    def averaged(
        self, batches: Iterable[Any] | None = None, forward: Forward | None = None
    ) -> Iterator[nn.Module]:
        """Put the mean parameters into the model, to evaluate or save; then restore it bit for bit.

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
            RuntimeError: Already inside, or a parameter was moved to other memory.
        """
        run = self._run
        if run.away:
            raise RuntimeError("averaged() is already entered: the model holds the mean parameters")
        run.call_order.check("averaged()")
        self._context.reshard()
        if not run.place.equal:
            run.integrity.check_memory()
        backup = ModelBackup(self.model, self._context.groups)
        run.gradients.away = True
        try:
            with run.meet(AVERAGED):
                run.agree(AVERAGED, backup)
                run.mean_model.show(run.place.equal, batches, forward, backup)
            yield self.model
        finally:
            run.gradients.away = False
            self._context.reshard()
            backup.restore()

    def no_sync(self) -> AbstractContextManager[None]:
        """Only accumulate gradients, in all backward passes of a step but the last.

        Matters in rounds of one step, where each backward pass would exchange otherwise (also
        right, since averaging is linear, but sent more often than needed).
        """
        hooks = self._run.gradients.hooks
        return nullcontext() if hooks is None else hooks.pause()

    def detach(self) -> None:
        """Take all hooks off. The parameters stay where they are and the run is over."""
        self._run.detach()

    def __enter__(self) -> Sync:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Finish; after an exception only detach, since other ranks may not be here."""
        if kind is None:
            self.finish()
        else:
            self._context.collectives.over(failed(error))
            self.detach()

    def __repr__(self) -> str:
        """Describe the algorithm, the world and the position in the run."""
        context = self._context
        P = sum(group.P for group in context.groups)
        of = f" of {context.steps}" if context.steps is not None else ""
        return (
            f"Sync({context.algorithm}, {shown(context.schedule)}, {context.world}, P={P}, "
            f"step {self.t}{of}, {self._run.place})"
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be copied or pickled, alone or as a part of something.

        Raises:
            TypeError: Always; says what to do.
        """
        raise TypeError(
            "a Sync belongs to this process and cannot be copied or pickled: save "
            "sync.state_dict(), beside the model's and the optimizer's, or leave it out of the "
            "object that is copied"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's place in the run and the algorithm's state, also in mid-round.

        Save it on every rank, beside that rank's own `model.state_dict()` and
        `optimizer.state_dict()`: between two exchanges the workers differ.

        Raises:
            RuntimeError: Inside `averaged()`: the model holds the mean parameters.
        """
        run = self._run
        if run.away:  # with the mean in memory: what is remembered of this rank's own does not fit
            run.refuse("state_dict()")
        return saved(self._context, run.rounds, run.warm_up, run.exchange)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state, after model and optimiser were loaded; on all ranks.

        Raises:
            ConfigurationError: It is of another job, another rank, or the model in memory is not
                the one it was saved with; on all ranks alike.
            RuntimeError: The run has ended, and its hooks are off, or the model holds the mean
                parameters.
        """
        run = self._run
        run.refuse("load_state_dict()")
        with run.meet(LOAD):
            agree(
                self._context.grid.everyone,
                lambda: check_saved(self._context, run.rounds, state),
            )
            run.rounds.load(AttachedPosition.saved(state["place"]), state.get("schedule", {}))
            run.exchange.load(state["states"])
            run.warm_up.load(state.get("rates"))
        run.resumed()
