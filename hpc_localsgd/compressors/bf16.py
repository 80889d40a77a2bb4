"""Brain floating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpc_localsgd.compressors.two_bytes import TwoBytes


@dataclass(frozen=True)
class BF16(TwoBytes):
    """The upper half of a float32: 8 significant bits, the range of float32.

        C(x) = nearest bfloat16 to x         |C(x) - x| <= 2^-8 |x|

    Source: torch.bfloat16.
    Here differs: Horovod refuses bfloat16, so the halves travel as bytes: each rank averages its
    share of the numbers after decoding, in the precision of x, and sends the average encoded again.
    Sends: 2 P bytes.
    Not finite: NaN stays NaN and infinity stays infinity, entry by entry; a magnitude beyond
    3.39e38 becomes infinity.

    Example:
        >>> codec = BF16()
        >>> sent = codec.encode(torch.tensor([[1.0, 0.1]]), [2])
        >>> sent.shape, codec.decode(sent, [2], torch.float32)
        (torch.Size([1, 4]), tensor([[1.0000, 0.1001]]))

    Attributes:
        error_feedback: Carry the rounding over to the next message.
    """

    sent_as: ClassVar[torch.dtype] = torch.bfloat16

    def error_bound(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the bound of `Compressor.error_bound`, for |x| < 3.39e38."""
        # At worst 2^-8 of 1 + 2^-8: room for float64, which is rounded twice, by way of float32.
        smallest = torch.finfo(torch.float32).tiny  # below it a device may flush to zero
        return 2**-8 * x.double().norm(dim=1) + smallest * sum(sizes) ** 0.5
