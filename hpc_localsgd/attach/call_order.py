"""Whether `optimizer.step()`, `sync.step()` and `finish()` come in their order."""

from __future__ import annotations

import atexit
import sys
import warnings

import torch

from hpc_localsgd.attach.shards import local

WINDOW = 32  # calls of sync.step() in which steps of the optimiser are counted
_UNFINISHED: dict[int, CallOrder] = {}


class CallOrder:
    """What has been called so far, on this rank.

    Attributes:
        taken: Calls of `optimizer.step()` since the last `sync.step()`.
        apart: Whether ranks are known to hold different models, for want of an exchange.
        stepped: Whether the optimiser has taken a step in this round.
    """

    def __init__(self, name: str, rank: int) -> None:
        """Begin; `name` is what to call the model at the end of the program."""
        self.name, self.taken, self.apart, self.stepped = name, 0, False, False
        self._calls, self._steps, self._speaks = 0, 0, rank == 0
        self._left: list[tuple[int, int, float]] | None = None
        if rank == 0:
            if not _UNFINISHED:
                atexit.unregister(say_unfinished)
                atexit.register(say_unfinished)
            _UNFINISHED[id(self)] = self

    def took(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Note that the optimiser is about to step.

        Args:
            optimizer: Whose gradients are looked at.
            closure: Whether it computes its gradients itself.

        Raises:
            RuntimeError: `sync.step()` was called for this very gradient already.
        """
        left, self._left = self._left, None
        if left and not closure and left == _gradients(optimizer):
            raise RuntimeError(
                "sync.step() was called before optimizer.step(), with the same gradients: call "
                "optimizer.step() first, then sync.step()"
            )
        self.taken += 1
        self.stepped = True

    def counted(self, optimizer: torch.optim.Optimizer) -> None:
        """Note that `sync.step()` was called; without a step before it, with which gradients."""
        self._left = None if self.taken else _gradients(optimizer)
        self._calls, self._steps = self._calls + 1, self._steps + self.taken
        self.taken = 0
        if self._calls == WINDOW:
            self._compare(_hooked(optimizer))
            self._calls = self._steps = 0

    def _compare(self, hooked: int) -> None:
        """Warn once that both are not called equally often; a GradScaler skips few steps.

        Args:
            hooked: How often the hook may be called in one step.
        """
        often = 2 * self._steps <= self._calls or self._steps >= 2 * hooked * self._calls
        if often and self._speaks:
            self._speaks = False
            warnings.warn(
                f"sync.step() was called {self._calls} times for {self._steps} optimizer.step() of "
                "the optimizer given to attach, and rounds are counted by it: call it once after "
                "every optimizer.step(), not after every micro-batch or epoch",
                stacklevel=2,
            )

    def check(self, what: str) -> None:
        """Check that every step of the optimiser was counted.

        Raises:
            RuntimeError: Some were not, so that it is unknown whether the ranks differ.
        """
        if self.taken:
            raise RuntimeError(
                f"{what} after {self.taken} optimizer.step() without sync.step(): call sync.step() "
                "once after every optimizer.step()"
            )

    def over(self) -> None:
        """Forget: the run has ended."""
        _UNFINISHED.pop(id(self), None)


def only_makes_state(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a step only makes an optimiser's first state, for torch's checkpoints.

    It steps with learning rate 0 along gradients of 0, so that there is something to load into.
    """
    if optimizer.state or any(float(group.get("lr", 1.0)) for group in optimizer.param_groups):
        return False
    grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
    return not any(g is None or g.is_sparse or bool(local(g).any()) for g in grads)


def say_unfinished() -> None:
    """Warn at exit of models left different on every rank; not after an exception."""
    left = [order for order in _UNFINISHED.values() if order.taken or order.apart]
    if not left or hasattr(sys, "last_type"):
        return
    never = " (sync.step() was not called after optimizer.step())" if left[0].taken else ""
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    warnings.warn(
        f"the program ends without sync.finish(): the model {left[0].name}{more} differs between "
        f"ranks{never}; call sync.finish() after the last step, or write `with attach(...) as "
        "sync:`",
        stacklevel=2,
    )


def _gradients(optimizer: torch.optim.Optimizer) -> list[tuple[int, int, float]]:
    """Return which gradients there are, how often each was written, and their sums.

    The next one may be made in the place of one that `zero_grad` has let go, its object too.
    """
    grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
    return [(id(g), g._version, float(local(g).sum())) for g in grads if g is not None]


def _hooked(optimizer: torch.optim.Optimizer) -> int:
    """Return how many `step` of its classes call hooks: one may call that of its base class."""
    kinds = type(optimizer).__mro__
    return max(1, sum(getattr(vars(kind).get("step"), "hooked", False) for kind in kinds))
