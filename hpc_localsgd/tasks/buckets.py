"""Buckets: parts of flat gradients, averaged as soon as backward has finished them.

The one machinery of the overlap with backward. The trainer fills buckets by the hooks of a task's
module (`gradient_parts.py`), `attach` by those of a user's own (`attach/gradient_hooks.py`); which
average is begun, and whether any is, the algorithm says (`Algorithm.in_backward`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, Vector

BUCKET_BYTES = 8 * 2**20  # enough to keep a network busy


class UnderWay(Protocol):
    """An average that was begun."""

    def wait(self) -> Vector:
        """Return its result, which is also where the gradient was."""


Begin: TypeAlias = "Callable[[Rows], UnderWay]"


@dataclass
class Bucket:
    """A contiguous part of a flat gradient.

    Attributes:
        part: [1, m], where its numbers are.
        tensors: How many tensors' gradients fill it.
        row: Which of several flat gradients it is a part of.
        missing: How many of its tensors have no gradient yet in this backward pass.
        begun: Its average, if that is under way.
    """

    part: Rows
    tensors: int
    row: int = 0
    missing: int = 0
    begun: UnderWay | None = None


class Buckets:
    """Buckets begun in one fixed order on all ranks, whatever the order of the gradients.

    Attributes:
        here: The tensors whose gradients have arrived in this backward pass.
    """

    def __init__(self, buckets: Iterable[Bucket]) -> None:
        """Take the buckets in the order in which they will be begun."""
        self._buckets = list(buckets)
        self.here: set[torch.Tensor] = set()
        self.restart()

    @property
    def begun(self) -> bool:
        """Whether an average has been begun in this backward pass."""
        return self._next > 0

    def restart(self) -> None:
        """Be ready for a backward pass."""
        self._next = 0
        self.here.clear()
        for bucket in self._buckets:
            bucket.missing, bucket.begun = bucket.tensors, None

    def arrive(self, tensor: torch.Tensor, bucket: Bucket, name: str = "a parameter") -> None:
        """Count the gradient of a tensor, which is in its bucket; a second one adds to the first.

        Raises:
            RuntimeError: The bucket's average has been begun already.
        """
        if bucket.begun is not None:
            raise RuntimeError(
                f"{name} got a second gradient in one backward pass, after its average had been "
                "begun: use checkpoint(use_reentrant=False)"
            )
        if tensor not in self.here:
            self.here.add(tensor)
            bucket.missing -= 1

    def begin(self, begins: Sequence[Begin]) -> None:
        """Begin the averages of complete buckets, in order, up to the first that is not.

        Args:
            begins: Begins the average of a part, for each flat gradient.
        """
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            bucket = self._buckets[self._next]
            bucket.begun = begins[bucket.row](bucket.part)
            self._next += 1

    def finish(self, begins: Sequence[Begin]) -> None:
        """Begin the averages that are left, at the end of backward, and wait for all of them."""
        for bucket in self._buckets:
            bucket.missing = 0
        self.begin(begins)
        for bucket in self._buckets:
            if bucket.begun is not None:
                bucket.begun.wait()
