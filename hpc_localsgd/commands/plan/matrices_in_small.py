"""Averages of factors on a small model, which has no matrices of the same proportions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hpc_localsgd.compressors.power_sgd import PowerSGD

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_localsgd.algorithms.base import Algorithm
    from hpc_localsgd.types import ModelSize, Shape


@dataclass(frozen=True)
class _Shares(PowerSGD):
    """Averages as long as PowerSGD's of another model, in proportion to the two models' lengths.

    Attributes:
        sent: Length of each average, for each parameter.
        kept: Numbers remembered, for each parameter.
    """

    sent: tuple[float, ...] = ()
    kept: float = 0.0

    def mean(
        self,
        x: Tensor,
        memory: Tensor,
        tensors: Sequence[Shape],
        average: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Make the averages, of any numbers."""
        del tensors
        for share in self.sent:
            average(x[:, : round(share * x.shape[1])].clone())
        return x, memory

    def columns(self, tensors: Sequence[Shape]) -> tuple[int, ...]:
        """Return what is remembered of each tensor, a vector here."""
        return tuple(round(self.kept * length) for (length,) in tensors)


def in_small(algorithm: Algorithm, model: ModelSize) -> Algorithm:
    """Return the algorithm for a small model, with averages in proportion to those of this one."""
    given: Any = algorithm
    codec = getattr(given, "compressor", None)
    if not (isinstance(codec, PowerSGD) and model.shapes):  # without shapes it is refused
        return algorithm
    sent = tuple(numbers / model.P for numbers in codec.messages(model.shapes))
    kept = sum(codec.columns(model.shapes)) / model.P
    made: Algorithm = replace(
        given, compressor=_Shares(codec.rank, codec.error_feedback, sent=sent, kept=kept)
    )
    return made
