"""Averages of matrices on a small model, which has none of the same proportions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hpc_localsgd.compressors.base import MatrixCompression

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_localsgd.algorithms.base import Algorithm
    from hpc_localsgd.types import ModelSize, Shape


@dataclass(frozen=True)
class _Shares(MatrixCompression):
    """Averages as long as a codec's of another model, in proportion to the two models' lengths.

    Attributes:
        sent: Length of each average, for each parameter.
        kept: Numbers remembered, for each parameter.
        error_feedback: The codec's.
    """

    sent: tuple[float, ...]
    kept: float
    error_feedback: bool

    def mean(
        self,
        x: Tensor,
        memory: Tensor,
        tensors: Sequence[Shape],
        average: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Make the averages, of any numbers."""
        for numbers in self.messages(tensors):
            average(x[:, :numbers].clone())
        return x, memory

    def messages(self, tensors: Sequence[Shape]) -> tuple[int, ...]:
        """Return how many numbers are in each average of these tensors, vectors here."""
        length = sum(length for (length,) in tensors)
        return tuple(round(share * length) for share in self.sent)

    def columns(self, tensors: Sequence[Shape]) -> tuple[int, ...]:
        """Return what is remembered of each tensor, a vector here."""
        return tuple(round(self.kept * length) for (length,) in tensors)


def in_small(algorithm: Algorithm, model: ModelSize) -> Algorithm:
    """Return the algorithm for a small model, with averages in proportion to those of this one."""
    given: Any = algorithm
    codec = getattr(given, "compressor", None)
    if not (isinstance(codec, MatrixCompression) and model.shapes):  # without, it is refused
        return algorithm
    sent = tuple(numbers / model.P for numbers in codec.messages(model.shapes))
    kept = sum(codec.columns(model.shapes)) / model.P
    made: Algorithm = replace(given, compressor=_Shares(sent, kept, codec.error_feedback))
    return made
