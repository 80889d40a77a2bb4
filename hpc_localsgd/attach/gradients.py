"""Rounds of one step: gradients averaged bucket by bucket while backward still runs.

    hook of a parameter       its gradient is copied into its window of one flat vector, and
                              `p.grad` becomes that window
    bucket complete           and all before it begun: its average is begun, without waiting
    end of backward           what no backward pass reached counts as zero; wait for the averages

As with DistributedDataParallel, `p.grad` is the average when `backward()` returns, so clipping and
GradScaler see what they should: an overflow on one rank is an overflow on all. The buckets are
begun in the same fixed order on all ranks, whatever the order in which gradients arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from hpc_localsgd.algorithms.allreduce import AllReduce
from hpc_localsgd.algorithms.base import Algorithm
from hpc_localsgd.algorithms.local_sgd import LocalSGD
from hpc_localsgd.attach.buckets import SPARSE, Bucket, Buffer, Slot, cut_buckets
from hpc_localsgd.attach.storage import Group

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, State
    from hpc_localsgd.worlds.base import World

Use = Literal["own", "mean", "algorithm"]


def use_of_gradients(algorithm: Algorithm, state: State, H: int, K: int) -> Use:
    """What a round of H steps does with the gradients.

    Returns:
        "own": each worker keeps its own. "mean": all take the average, which can be begun during
        backward. "algorithm": its `on_gradient` is given the whole vector once a step, when the
        optimiser is about to use it: it may remember gradients, so they must be complete and
        without a GradScaler's factor.
    """
    rule = type(algorithm).on_gradient
    if remembers(algorithm):
        return "algorithm"
    if rule is Algorithm.on_gradient:
        return "own"
    if rule is LocalSGD.on_gradient:
        return "mean" if state["parallel"] and H == 1 and K > 1 else "own"
    return "mean" if K > 1 else "own"


def remembers(algorithm: Algorithm) -> bool:
    """Tell whether an algorithm is given the whole vector of gradients, which it may remember."""
    rule = type(algorithm).on_gradient
    if rule is AllReduce.on_gradient:
        return getattr(algorithm, "compressor", None) is not None
    return rule is not Algorithm.on_gradient and rule is not LocalSGD.on_gradient


class Gradients:
    """The hooks on the parameters, the buckets, and where in the backward pass we are."""

    def __init__(
        self,
        groups: Sequence[Group],
        world: World,
        bucket_bytes: int,
        use: Callable[[], Use],
        on_gradient: Callable[[list[Rows]], None],
        meet: Callable[[], AbstractContextManager[None]],
        heal: Callable[[list[Rows]], None] | None = None,
    ) -> None:
        """Put a hook on every parameter.

        Args:
            groups: The parameters.
            world: Who averages.
            bucket_bytes: A bucket is closed when it has as many.
            use: Asked at every gradient what this round does with it.
            on_gradient: Called with the rows [1, P] of all groups where `use` is "algorithm".
            meet: Around what waits for the other ranks.
            heal: Called with the rows of all groups before anything of them is averaged, which
                then begins when backward ends.
        """
        self._groups, self._world, self._bytes = groups, world, bucket_bytes
        self._use, self._on_gradient, self._meet = use, on_gradient, meet
        self._heal = heal
        self._buffers: list[Buffer] = []
        self._buckets: list[Bucket] = []
        self._slots: list[Slot] = []
        # What can be begun before the end: the last bucket is complete with the last gradient.
        self._early: dict[torch.Tensor, Slot] = {}
        self._next, self._ending = 0, False
        self.paused = False
        self.done = False  # this step's gradients have been exchanged
        parameters = [p for group in groups for p in group.parameters]
        self._hooks = [p.register_post_accumulate_grad_hook(self._arrived) for p in parameters]

    def remove(self) -> None:
        """Take the hooks off again. Not to be called from within a backward pass."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Backward passes inside only accumulate, as in DistributedDataParallel's `no_sync`."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def _arrived(self, parameter: torch.Tensor) -> None:
        """The hook: autograd has accumulated into `parameter.grad`."""
        if self._ending and parameter not in self._early:
            return
        if self.paused or self._use() != "mean":
            return
        if parameter.grad is not None and parameter.grad.requires_grad:
            raise RuntimeError(
                "backward(create_graph=True) in a round of one step: the average of gradients that "
                "takes the place of p.grad has no graph; write `with sync.no_sync():` around it "
                "(gradients are then averaged in optimizer.step()), or use torch.autograd.grad"
            )
        if not self._ending:
            self._prepare()
            # Runs when the outermost backward call is about to return, as DDP's and FSDP's do.
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(self.finish)
            self._ending = True
        slot = self._early.get(parameter)
        if slot is None:
            return
        if slot.bucket.begun is not None:
            raise RuntimeError(
                f"{slot.name} got a second gradient in one backward pass, after its average had "
                "been begun: use checkpoint(use_reentrant=False)"
            )
        with torch.no_grad():
            self._keep(slot)
        if not slot.arrived:
            slot.arrived = True
            slot.bucket.missing -= 1
        if self._heal is None:
            self._begin_complete()

    @torch.no_grad()
    def finish(self, skipped: bool = False) -> None:
        """The end of a backward pass; also called where there was none, for the others' sake.

        Args:
            skipped: The optimiser does not take this step (an overflow), so that what this worker
                has to say to an algorithm's `on_gradient` is nothing.
        """
        self._prepare()
        if skipped and self._use() == "algorithm":
            for slot in self._slots:
                slot.parameter.grad = None
        for slot in self._slots:
            if not slot.arrived:
                self._fill(slot)
        for bucket in self._buckets:
            bucket.missing = 0
        with self._meet():
            if self._heal is not None:
                self._heal([buffer.rows for buffer in self._buffers])
            self._begin_complete()
            for bucket in self._buckets:
                if bucket.begun is not None:
                    bucket.begun.wait()
            if self._use() == "algorithm":
                self._on_gradient([buffer.rows for buffer in self._buffers])
        self._hand_back()

    def _begin_complete(self) -> None:
        """Begin the averages of complete buckets, in order, up to the first that is not."""
        if self._use() != "mean":
            return
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            bucket = self._buckets[self._next]
            bucket.begun = self._world.begin_mean(bucket.part[None], keep=False)
            self._next += 1

    def _keep(self, slot: Slot) -> None:
        """The gradient into its window, unless it has been accumulated there already."""
        grad = slot.parameter.grad
        assert grad is not None
        if grad is slot.window:
            return
        if grad.is_sparse:
            slot.flag.fill_(SPARSE)
            slot.sparse = True
        slot.window.copy_(grad.to_dense() if grad.is_sparse else grad)
        if grad.dtype == slot.window.dtype:
            slot.parameter.grad = slot.window

    def _fill(self, slot: Slot) -> None:
        """What this backward pass did not reach: accumulated before it, or nothing."""
        if slot.parameter.grad is not None:
            self._keep(slot)
            return
        slot.window.zero_()
        slot.flag.zero_()
        slot.absent = True

    def _hand_back(self) -> None:
        """Give every parameter the result as its gradient, and be ready for the next pass."""
        exact = self._use() == "mean"
        for slot in self._slots:
            used = not (slot.absent and exact) or bool(slot.flag != 0)  # by any rank
            if used:
                slot.give()
            slot.arrived = slot.absent = slot.sparse = False
        for buffer in self._buffers:
            buffer.vector[: buffer.n] = 1
        self._reset()
        self.done = True

    def _reset(self) -> None:
        for bucket in self._buckets:
            bucket.missing, bucket.begun = len(bucket.slots), None
        self._next, self._ending = 0, False

    def _prepare(self) -> None:
        """Allocate the vectors and cut them in buckets, the first time they are needed."""
        if self._buckets:
            return
        positioned = []
        for group in self._groups:
            buffer, cut = cut_buckets(group, self._bytes)
            self._buffers.append(buffer)
            positioned += cut
        self._buckets = positioned
        self._slots = [slot for bucket in positioned for slot in bucket.slots]
        early = [slot for bucket in positioned[:-1] for slot in bucket.slots]
        self._early = {slot.parameter: slot for slot in early}
        self._reset()
