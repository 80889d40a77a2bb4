"""Eight bits a number and a scale per tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_localsgd.compressors.base import Compressor, from_bytes, per_entry, per_tensor, to_bytes


@dataclass(frozen=True)
class Int8(Compressor):
    """Whole multiples, -127 to 127, of a scale that each tensor has for itself.

        s = max|x| / 127          C(x) = s round(x / s)          |C(x) - x| <= s / 2

    Source: symmetric linear quantisation, the common form; rounding is to nearest, halves to even.
    Here differs: no stochastic rounding, so the same vector always gives the same bytes. The error
    is then correlated with x; `error_feedback=True` is the remedy where that matters.
    Sends: P bytes and 4 for each tensor.
    Not finite: NaN or infinity anywhere in a tensor makes that whole tensor NaN.

    Example:
        >>> codec = Int8()
        >>> sent = codec.encode(torch.tensor([[127.0, -3.4, 0.6]]), [3])
        >>> sent.shape, codec.decode(sent, [3], torch.float32)
        (torch.Size([1, 7]), tensor([[127.,  -3.,   1.]]))

    Attributes:
        error_feedback: Carry the rounding over to the next message.
    """

    error_feedback: bool = False

    def encode(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Encode rows, see `Compressor.encode`."""
        scales = _scales(x, sizes)
        levels = (x / per_entry(scales, sizes)).round().clamp(-127, 127)
        # 0 / 0 in a tensor of zeros, and NaN, have no level: 0 times the scale is right for both.
        levels = levels.nan_to_num(0).to(torch.int8)
        return torch.cat([to_bytes(scales), to_bytes(levels)], dim=1)

    def decode(self, sent: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Decode rows, see `Compressor.decode`."""
        head = 4 * len(sizes)
        scales = from_bytes(sent[:, :head], torch.float32).to(dtype)
        return from_bytes(sent[:, head:], torch.int8).to(dtype) * per_entry(scales, sizes)

    def payload(self, sizes: Sequence[int]) -> int:
        """Return the bytes of a row, see `Compressor.payload`."""
        return sum(sizes) + 4 * len(sizes)

    def error_bound(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the bound of `Compressor.error_bound`, for |x| < 3.4e38."""
        # Half a step, and room for the rounding of x / s.
        half = (0.5 + 2**-12) * per_entry(_scales(x, sizes).double(), sizes)
        return (half + torch.finfo(torch.float32).tiny).norm(dim=1)


def _scales(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return max |x| / 127 of each tensor: [N, len(sizes)] float32, NaN where x has one."""
    return per_tensor(x, sizes, lambda part: part.abs().amax(dim=1) / 127).to(torch.float32)
