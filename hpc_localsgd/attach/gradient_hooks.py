"""Rounds of one step: gradients averaged bucket by bucket while backward still runs.

    hook of a parameter       its gradient is copied into its view of one flat vector, and
                              `p.grad` becomes that view
    bucket complete           and all before it begun: its average is begun, without waiting
    end of backward           what no backward pass reached counts as zero; wait for the averages

As with DistributedDataParallel, `p.grad` is the average when `backward()` returns, so clipping and
GradScaler see what they should: an overflow on one rank is an overflow on all. The buckets are
begun in the same fixed order on all ranks, whatever the order in which gradients arrive. Whether
there is an average to begin, and which, is said by `Algorithm.in_backward`, as in the trainer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from hpc_localsgd.attach.flat_gradient import SPARSE, FlatGradient, Slot, cut_buckets
from hpc_localsgd.attach.shards import local_gradient
from hpc_localsgd.attach.storage import Group
from hpc_localsgd.tasks.buckets import Begin, Buckets

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows

# What a step does with the gradients. "own": each worker keeps its own. "mean": all take the
# average, which is begun during backward. "algorithm": its `on_gradient` is given the whole vector
# once, when the optimiser is about to use it: it may remember gradients, so they must be complete
# and without a GradScaler's factor.
Use = Literal["own", "mean", "algorithm"]


class _Pass:
    """What autograd calls when a backward pass ends, and lets go of where one fails."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish = finish

    def __call__(self) -> None:
        self._finish()


class GradientHooks:
    """The hooks on the parameters, the buckets, and the position in the backward pass."""

    def __init__(
        self,
        groups: Sequence[Group],
        bucket_bytes: int,
        use: Callable[[], Use],
        begins: Callable[[], Sequence[Begin]],
        on_gradient: Callable[[list[Rows]], None],
        meet: Callable[[], AbstractContextManager[None]],
        left_out: Callable[[bool], bool],
        make_finite: Callable[[list[Rows]], None] | None = None,
    ) -> None:
        """Put a hook on every parameter.

        Args:
            groups: The parameters.
            bucket_bytes: A bucket is closed when it has as many.
            use: Asked at every gradient what this step does with it.
            begins: Asked, where `use` is "mean", what begins an average, for each group.
            on_gradient: Called with the rows [1, P] of all groups where `use` is "algorithm".
            meet: Around what waits for the other ranks.
            left_out: Asked, where `use` is "algorithm", whether no rank takes this step, given
                whether this one does not.
            make_finite: Called with the rows of all groups before any of them is averaged, which
                then begins when backward ends.
        """
        self._groups, self._bytes = groups, bucket_bytes
        self._use, self._begins, self._on_gradient, self._meet = use, begins, on_gradient, meet
        self._left_out, self._make_finite = left_out, make_finite
        self._flat: list[FlatGradient] = []
        self._buckets: Buckets | None = None
        self._slots: list[Slot] = []
        # What can be begun before the end: the last bucket is complete with the last gradient.
        self._early: dict[torch.Tensor, Slot] = {}
        self._pass: weakref.ref[_Pass] | None = None  # begun, and not ended
        self.paused = False
        self.done = False  # this step's gradients have been exchanged
        self.added = False  # and more has been added since, which is this rank's own
        parameters = [p for group in groups for p in group.parameters]
        self._hooks = [p.register_post_accumulate_grad_hook(self._arrived) for p in parameters]

    def remove(self) -> None:
        """Take the hooks off again. Not to be called from within a backward pass."""
        for hook in self._hooks:
            hook.remove()

    def to_settle(self, skipped: bool) -> bool:
        """Return whether the optimiser would step along gradients that are this rank's own.

        More may have been added under `pause` to what was averaged before: an average is linear.
        """
        return not self.done or (self.added and not skipped)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let backward passes only accumulate, as in DistributedDataParallel's `no_sync`."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def _arrived(self, parameter: torch.Tensor) -> None:
        """Note that autograd has accumulated into `parameter.grad`."""
        if self._under_way and parameter not in self._early:
            return
        if self.paused:
            self.added = True
            return
        if self._use() != "mean":
            return
        if parameter.grad is not None and parameter.grad.requires_grad:
            raise RuntimeError(
                "backward(create_graph=True) in a round of one step: the average of gradients that "
                "takes the place of p.grad has no graph; write `with sync.no_sync():` around it "
                "(gradients are then averaged in optimizer.step()), or use torch.autograd.grad"
            )
        if not self._under_way:
            self._begin_pass()
            # Runs when the outermost backward call is about to return, as DDP's and FSDP's do.
            engine, end = torch.autograd.Variable._execution_engine, _Pass(self.finish)
            engine.queue_callback(end)
            self._pass = weakref.ref(end)
        buckets = self._prepared()
        slot = self._early.get(parameter)
        if slot is None:
            return
        buckets.arrive(parameter, slot.bucket, slot.name)
        with torch.no_grad():
            self._keep(slot)
        if self._make_finite is None:
            buckets.begin(self._begins())

    @torch.no_grad()
    def finish(self, skipped: bool = False) -> None:
        """End a backward pass; called where there was none too, for the other ranks' sake.

        Args:
            skipped: The optimiser does not take this step (an overflow), so that what this worker
                has to say to an algorithm's `on_gradient` is nothing.
        """
        if not self._under_way:
            self._begin_pass()
        buckets, use = self._prepared(), self._use()
        if use == "algorithm" and self._dropped(skipped):
            return
        self._collect(slot for slot in self._slots if slot.parameter not in buckets.here)
        with self._meet():
            if self._make_finite is not None:
                self._make_finite([flat.rows for flat in self._flat])
            if use == "mean":
                buckets.finish(self._begins())
            elif use == "algorithm":
                self._on_gradient([flat.rows for flat in self._flat])
        self._hand_back(exact=use == "mean")
        buckets.restart()

    @property
    def _under_way(self) -> bool:
        """Whether a backward pass has begun that has neither ended nor failed."""
        return self._pass is not None and self._pass() is not None

    def _begin_pass(self) -> None:
        """Be ready for gradients: forget a pass that failed, and leave alone what is kept.

        Raises:
            RuntimeError: Of the pass that failed, averages had been begun.
        """
        if self._pass is not None and self._buckets is not None:
            if self._buckets.begun:
                raise RuntimeError(
                    "backward() failed on this rank after it had sent a part of its gradients, and "
                    "the others wait for the rest: resume from a checkpoint; to be able to repeat "
                    "a backward pass (out of memory, say), write `with sync.no_sync():` around it "
                    "(gradients are then averaged in optimizer.step())"
                )
            self._buckets.restart()
            for slot in self._slots:
                slot.flag.fill_(1)
                slot.sparse = False
            self._pass = None
        if not all([slot.release() for slot in self._slots]):
            self._buckets = None  # new memory

    def _dropped(self, skipped: bool) -> bool:
        """Return whether no rank takes this step; gradients that are not used are let go."""
        with self._meet():
            left_out = self._left_out(skipped)
        if skipped or left_out:
            for slot in self._slots:
                slot.parameter.grad = None
        self.done = self.done or left_out
        return left_out

    def _keep(self, slot: Slot) -> None:
        """Copy the gradient into its view, unless it was accumulated there already."""
        if slot.parameter.grad is slot.grad:
            return
        grad = local_gradient(slot.parameter)
        if grad.is_sparse:
            slot.flag.fill_(SPARSE)
            slot.sparse = True
        slot.view.copy_(grad.to_dense() if grad.is_sparse else grad)
        if grad.dtype == slot.view.dtype:
            slot.parameter.grad = slot.grad

    def _collect(self, slots: Iterable[Slot]) -> None:
        """Take what was not taken when it arrived: the last bucket, or what no pass has reached."""
        views, grads = [], []
        for slot in slots:
            grad = slot.parameter.grad
            if grad is None:
                slot.view.zero_()
                slot.flag.zero_()
                slot.absent = True
            elif grad.is_sparse or grad.dtype != slot.view.dtype:
                self._keep(slot)
            elif grad is not slot.grad:
                views.append(slot.view)
                grads.append(local_gradient(slot.parameter))
                slot.parameter.grad = slot.grad
        if grads:
            torch._foreach_copy_(views, grads)

    def _hand_back(self, exact: bool) -> None:
        """Give every parameter the result as its gradient, and be ready for the next pass.

        Args:
            exact: The flags have been averaged, and tell whether any rank has a gradient.
        """
        for slot in self._slots:
            if slot.absent or slot.sparse:
                if not (slot.absent and exact) or bool(slot.flag != 0):  # used by any rank
                    slot.give()
                slot.absent = slot.sparse = False
            elif slot.parameter.grad is not slot.grad:
                slot.give()
        for flat in self._flat:
            flat.flags.fill_(1)
        self._pass, self.done, self.added = None, True, False

    def _prepared(self) -> Buckets:
        """Allocate the vectors and cut them in buckets, the first time they are needed."""
        if self._buckets is None:
            buckets, self._flat, self._slots = [], [], []
            for row, group in enumerate(self._groups):
                flat, cut, slots = cut_buckets(group, row, self._bytes)
                self._flat.append(flat)
                self._slots += slots
                buckets += cut
            early = [slot for slot in self._slots if slot.bucket is not buckets[-1]]
            self._early = {slot.parameter: slot for slot in early}
            self._buckets = Buckets(buckets)
            for slot in self._slots:
                slot.watch()
        return self._buckets
