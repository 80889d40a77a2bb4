"""Four bits a number, evenly spaced, and a scale for each block of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_localsgd.compressors.four_bits import FourBits


@dataclass(frozen=True)
class Int4(FourBits):
    """Whole multiples, -7 to 7, of a step that each block of the vector has for itself.

        m = max|x|                C(x) = m/7 round(7 x / m)      |C(x) - x| <= m / 14

    Source: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861, for
        the blocks; the levels are those of symmetric linear quantisation.
    Here differs: rounding is to nearest, halves to even, so that the same vector always gives the
        same bytes. Blocks do not end where tensors do.
    Sends: ceil(P / 2) bytes and 4 for each block.
    Not finite: NaN or infinity anywhere in a block makes that whole block NaN.

    Example:
        >>> codec = Int4(block=2)
        >>> sent = codec.encode(torch.tensor([[7.0, -3.4, 0.07]]), [3])
        >>> sent.shape, codec.decode(sent, [3], torch.float32)
        (torch.Size([1, 10]), tensor([[ 7.0000, -3.0000,  0.0700]]))

    Attributes:
        block: Numbers that share a scale: more => fewer bytes and more rounding.
        error_feedback: Carry the rounding over to the next message.
    """

    def codes(self, share: Tensor) -> Tensor:
        """Return the nearest of -7..7 to seven times the share, and 8, for a code from 1 to 15."""
        return ((share * 7).round().clamp(-7, 7).nan_to_num(0) + 8).to(torch.uint8)

    def levels(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return sevenths, see `FourBits.levels`."""
        return (codes.to(dtype) - 8) / 7

    def error_bound(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the bound of `Compressor.error_bound`, for |x| < 3.4e38."""
        # Half a step, and room for the rounding of 7 x / m.
        half = (0.5 + 2**-12) / 7 * self.scale_of_each(x)
        return (half + torch.finfo(torch.float32).tiny).norm(dim=1)
