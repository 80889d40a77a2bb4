"""What a world asks of a compressor: codes of the same length for rows of the same length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Codec(Protocol):
    """Encoder and decoder of rows; `compressors.base` says what each method does."""

    def encode(self, x: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return the codes uint8 [R, m] of the rows x [R, P]."""

    def decode(self, sent: torch.Tensor, sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return the rows [R, P] that codes [R, m] stand for."""

    def payload(self, sizes: Sequence[int]) -> int:
        """Return m, the bytes of a row's code."""
