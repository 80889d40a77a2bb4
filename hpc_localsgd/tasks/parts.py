"""Parts of a gradient that are begun to be averaged as soon as backward has finished them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch

from hpc_localsgd.tasks.fragments import cuts_from_the_end

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, Vector

PART_BYTES = 8 * 2**20  # enough to keep a network busy


class UnderWay(Protocol):
    """An average that was begun."""

    def wait(self) -> Vector:
        """Its result, which is also where the gradient was."""


Begin: TypeAlias = "Callable[[Rows], UnderWay]"


class Parts:
    """Contiguous parts of one worker's gradient [1, P], begun in one order on all ranks.

    First the matrices, from the last to the first, as backward reaches them; then biases and norms,
    which come last in the vector and are complete only with the first layer. A gradient of
    PART_BYTES or less is one part, begun when all of it is there.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        matrices: int,
        g: Rows,
        part_bytes: int = PART_BYTES,
    ) -> None:
        """Cut a gradient.

        Args:
            parameters: In the order of the vector; their gradients are windows of g.
            matrices: How many of them come before the biases and norms.
            g: [1, P].
            part_bytes: A part is closed when it has as many.
        """
        begins = [0, *accumulate(p.numel() for p in parameters)]
        ranges = cuts_from_the_end(begins[: matrices + 1], part_bytes // g.itemsize)
        if matrices < len(parameters):
            ranges = [*ranges, (matrices, len(parameters))]
        if begins[-1] * g.itemsize <= part_bytes:
            ranges = [(0, len(parameters))]
        self._parts = [g[:, begins[first] : begins[after]] for first, after in ranges]
        self._sizes = [after - first for first, after in ranges]
        self._missing = list(self._sizes)
        self._part_of: dict[torch.Tensor, int] = {}
        self._begin: Begin | None = None
        self._begun: list[UnderWay] = []
        for i, (first, after) in enumerate(ranges[:-1]):  # the last is complete at the end anyway
            for parameter in parameters[first:after]:
                self._part_of[parameter] = i
                parameter.register_post_accumulate_grad_hook(self._arrived)

    @contextmanager
    def averaged(self, begin: Begin) -> Iterator[None]:
        """Around one backward pass; afterwards g holds the averages."""
        self._begin, self._begun, self._missing = begin, [], list(self._sizes)
        try:
            yield
            for part in self._parts[len(self._begun) :]:  # what no gradient reached is zero
                self._begun.append(begin(part))
            for average in self._begun:
                average.wait()
        finally:
            self._begin = None

    def _arrived(self, parameter: torch.Tensor) -> None:
        if self._begin is None:
            return
        i = self._part_of[parameter]
        self._missing[i] -= 1
        if self._missing[i] < 0:
            raise RuntimeError(
                "a parameter got a second gradient in one backward pass, after its average had "
                "been begun: use checkpoint(use_reentrant=False)"
            )
        while not self._missing[len(self._begun)]:
            self._begun.append(self._begin(self._parts[len(self._begun)]))
