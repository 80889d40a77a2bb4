"""Half precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpc_localsgd.compressors.two_bytes import TwoBytes


@dataclass(frozen=True)
class FP16(TwoBytes):
    """IEEE half precision: 11 significant bits, magnitudes from 6e-8 to 65504.

        C(x) = nearest half to x             |C(x) - x| <= 2^-11 |x| + 2^-25

    Source: IEEE 754 binary16; Horovod's `Compression.fp16`.
    Here differs: nothing is clamped. A magnitude of 65520 or more becomes infinity, to be seen and
    not hidden. Averages are taken after decoding, in the precision of x; Horovod's `Average` sums
    the halves first and overflows (4 workers x 30000 = infinity).
    Sends: 2 P bytes.
    Not finite: NaN stays NaN and infinity stays infinity, entry by entry.

    Example:
        >>> codec = FP16()
        >>> sent = codec.encode(torch.tensor([[1.0, 0.1]]), [2])
        >>> sent.shape, codec.decode(sent, [2], torch.float32)
        (torch.Size([1, 4]), tensor([[1.0000, 0.1000]]))

    Attributes:
        error_feedback: Carry the rounding over to the next message. Not with values that overflow.
    """

    sent_as: ClassVar[torch.dtype] = torch.float16

    def error_bound(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the bound of `Compressor.error_bound`, for |x| < 65520."""
        # At worst 2^-11 of 1 + 2^-11: room for float64, which is rounded twice, by way of float32.
        return 2**-11 * x.double().norm(dim=1) + 2**-25 * sum(sizes) ** 0.5
