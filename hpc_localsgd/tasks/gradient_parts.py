"""Parts of one worker's gradient, averaged while the backward pass of a task continues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from hpc_localsgd.tasks.buckets import BUCKET_BYTES, Begin, Bucket, Buckets
from hpc_localsgd.tasks.fragments import cuts_from_the_end

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows


class GradientParts:
    """Contiguous parts of one worker's gradient [1, P], begun in one order on all ranks.

    First the matrices, from the last to the first, as backward reaches them; then biases and norms,
    which come last in the vector and are complete only with the first layer. A gradient of
    BUCKET_BYTES or less is one part, begun when all of it is there.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        matrices: int,
        g: Rows,
        part_bytes: int = BUCKET_BYTES,
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
        cut = [
            Bucket(g[:, begins[first] : begins[after]], after - first) for first, after in ranges
        ]
        self._buckets = Buckets(cut)
        self._begins: list[Begin] = []
        self._bucket_of: dict[torch.Tensor, Bucket] = {}
        # The last is complete at the end anyway.
        for (first, after), bucket in zip(ranges[:-1], cut, strict=False):
            for parameter in parameters[first:after]:
                self._bucket_of[parameter] = bucket
                parameter.register_post_accumulate_grad_hook(self._arrived)

    @contextmanager
    def averaged(self, begin: Begin) -> Iterator[None]:
        """Average during one backward pass; afterwards g holds the averages."""
        self._begins = [begin]
        self._buckets.restart()
        try:
            yield
            self._buckets.finish(self._begins)  # what no gradient reached is zero
        finally:
            self._begins = []

    def _arrived(self, parameter: torch.Tensor) -> None:
        if self._begins:
            self._buckets.arrive(parameter, self._bucket_of[parameter])
            self._buckets.begin(self._begins)
