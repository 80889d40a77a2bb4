"""A user's own codec that has to know the shapes of the tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch

from hpc_localsgd.compressors import MatrixCompression
from hpc_localsgd.types import Shape, lengths


@dataclass(frozen=True)
class InHalves(MatrixCompression):
    """Send the first half of the rows of every tensor in one average, the others in another.

    Remembers of each tensor how often it was sent.
    """

    error_feedback: bool = False

    def mean(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        tensors: Sequence[Shape],
        average: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average both halves."""
        assert memory.shape[1] == len(tensors), "not the memory of these tensors"
        parts = x.split(lengths(tensors), dim=1)
        for of in (slice(None, 1), slice(1, None)):
            halves = [
                half
                for part, shape in zip(parts, tensors, strict=True)
                for half in (part[:, : _first(shape)], part[:, _first(shape) :])[of]
            ]
            message = average(torch.cat(halves, dim=1))
            for half, mean in zip(
                halves, message.split([h.shape[1] for h in halves], dim=1), strict=True
            ):
                half[:] = mean
        return x, memory + 1

    def messages(self, tensors: Sequence[Shape]) -> tuple[int, ...]:
        """Return the lengths of both halves."""
        first = sum(map(_first, tensors))
        return first, sum(lengths(tensors)) - first

    def columns(self, tensors: Sequence[Shape]) -> tuple[int, ...]:
        """Return 1 for every tensor."""
        return (1,) * len(tensors)


def _first(shape: Shape) -> int:
    return shape[0] // 2 * prod(shape[1:]) if shape else 0
