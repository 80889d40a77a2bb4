"""Floating-point numbers of four bits: a sign and an exponent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_localsgd.compressors.four_bits import FourBits

LEAST = -6  # exponent of the smallest magnitude that is not 0: with 0 and 2^0 there are eight


@dataclass(frozen=True)
class E3M0(FourBits):
    """A sign, three bits of exponent, none of mantissa; m is the largest |x| of a block.

        C(x) = the nearest to x of 0 and +-m 2^e, e = -6..0      |C(x) - x| <= max(|x| / 3, m / 128)

    Source: Douillard et al., Streaming DiLoCo, arXiv:2501.18512, which sends outer gradients in
        this form and adds them up in float32.
    Here differs: the paper does not say what the exponents are relative to. Here it is the largest
        magnitude of a block, which is sent as a float32. Of two levels equally near the larger is
        taken.
    Sends: ceil(P / 2) bytes and 4 for each block.
    Not finite: NaN or infinity anywhere in a block makes that whole block NaN.

    Example:
        >>> codec = E3M0(block=4)
        >>> sent = codec.encode(torch.tensor([[8.0, -3.1, 0.1, 0.01]]), [4])
        >>> sent.shape, codec.decode(sent, [4], torch.float32)
        (torch.Size([1, 6]), tensor([[ 8.0000, -4.0000,  0.1250,  0.0000]]))

    Attributes:
        block: Numbers that share a scale: more => fewer bytes, and more of them are sent as 0.
        error_feedback: Carry the rounding over to the next message. The paper does not use it.
    """

    def codes(self, share: Tensor) -> Tensor:
        """Return 0, or 1 to 7 for a magnitude of 2^-6 to 1; 8 more where it is negative."""
        mantissa, exponent = torch.frexp(share.abs())  # share = mantissa 2^exponent, from 1/2 to 1
        nearest = exponent - (mantissa < 0.75).to(exponent.dtype)
        seen = (share.abs() >= 2.0 ** (LEAST - 1)).to(exponent.dtype)
        magnitude = (nearest - LEAST + 1).clamp(1, 7) * seen
        return magnitude.to(torch.uint8) | ((share < 0).to(torch.uint8) << 3)

    def levels(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return 0 and powers of two, see `FourBits.levels`."""
        magnitude = (codes & 7).to(dtype)
        power = torch.exp2(magnitude + (LEAST - 1)) * (magnitude > 0)
        return torch.where(codes > 7, -power, power)

    def error_bound(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the bound of `Compressor.error_bound`, for |x| < 3.4e38."""
        worst = torch.maximum(x.abs().double() / 3, self.scale_of_each(x) / 128)
        return (worst * (1 + 2**-20) + torch.finfo(torch.float32).tiny).norm(dim=1)
