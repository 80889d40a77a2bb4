"""Base of the codecs that send each number as a float of two bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpc_localsgd.compressors.base import Compressor, from_bytes, to_bytes


@dataclass(frozen=True)
class TwoBytes(Compressor):
    """The nearest float of 16 bits to each number; a codec says of which kind.

    Attributes:
        error_feedback: Carry the rounding over to the next message.
    """

    elementwise: ClassVar[bool] = True
    sent_as: ClassVar[torch.dtype]
    error_feedback: bool = False

    def encode(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Encode rows, see `Compressor.encode`."""
        return to_bytes(x.to(self.sent_as))

    def decode(self, sent: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Decode rows, see `Compressor.decode`."""
        return from_bytes(sent, self.sent_as).to(dtype)

    def payload(self, sizes: Sequence[int]) -> int:
        """Return the bytes of a row, see `Compressor.payload`."""
        return 2 * sum(sizes)
