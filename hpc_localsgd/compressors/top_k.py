"""The largest entries, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpc_localsgd.compressors.base import Compressor, from_bytes, to_bytes
from hpc_localsgd.types import ConfigurationError

_VALUE_TYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class TopK(Compressor):
    """The k entries largest in magnitude, of the whole vector; the others are sent as zero.

        k = fraction P, to the nearest whole number, at least 1
        C(x)_i = x_i if i is among the k largest |x_i|, else 0
        ||C(x) - x||_2^2 <= (1 - k / P) ||x||_2^2, and the values' own rounding

    Source: Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, arXiv:1809.07599.
    Here differs: of equal magnitudes (as float32) the one that comes first in the vector is taken,
    so that the bytes are the same on every device.
    Sends: k (4 + 4) bytes, k (4 + 2) with values in float16.
    Not finite: NaN counts as larger than infinity and infinity as larger than any number, so they
    are the first to be sent, each where it is; if more than k are not finite, k of them are sent.

    Example:
        >>> codec = TopK(fraction=0.5)
        >>> sent = codec.encode(torch.tensor([[1.0, -3.0, 0.5, 2.0]]), [4])
        >>> sent.shape, codec.decode(sent, [4], torch.float32)
        (torch.Size([1, 16]), tensor([[ 0., -3.,  0.,  2.]]))

    Attributes:
        fraction: Share of the entries kept: more => less compression.
        values: Type in which the values travel; float16 overflows to infinity from 65520 on.
        error_feedback: Carry what was lost over to the next message.
    """

    fraction: float = 0.01
    values: Literal["float32", "float16"] = "float32"
    error_feedback: bool = True

    def __post_init__(self) -> None:
        """Check the fraction and the type of the values."""
        if not 0 < self.fraction <= 1:
            raise ConfigurationError(
                f"top_k keeps a fraction above 0 and at most 1 of the entries, got "
                f"{self.fraction}: to keep one in a hundred, type fraction 0.01"
            )
        if self.values not in _VALUE_TYPES:
            raise ConfigurationError(
                f"top_k sends its values as {' or '.join(_VALUE_TYPES)}, not as {self.values!r}: "
                "type values float32"
            )

    def encode(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Encode rows, see `Compressor.encode`."""
        indices = _largest(x, self._kept(sizes))
        values = x.gather(1, indices).to(_VALUE_TYPES[self.values])
        return torch.cat([to_bytes(indices.to(torch.int32)), to_bytes(values)], dim=1)

    def decode(self, sent: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Decode rows, see `Compressor.decode`."""
        head = 4 * self._kept(sizes)
        indices = from_bytes(sent[:, :head], torch.int32).to(torch.int64)
        values = from_bytes(sent[:, head:], _VALUE_TYPES[self.values]).to(dtype)
        zeros = values.new_zeros(len(sent), sum(sizes))
        return zeros.scatter_(1, indices, values)

    def payload(self, sizes: Sequence[int]) -> int:
        """Return the bytes of a row, see `Compressor.payload`."""
        return self._kept(sizes) * (4 + _VALUE_TYPES[self.values].itemsize)

    def error_bound(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the bound of `Compressor.error_bound`, for x in the range of the values' type."""
        kept, columns = self._kept(sizes), sum(sizes)
        finfo = torch.finfo(_VALUE_TYPES[self.values])
        dropped = (1 - kept / columns) ** 0.5 * (1 + 2**-20)
        smallest = finfo.tiny * finfo.eps * columns**0.5
        return (dropped + finfo.eps) * x.double().norm(dim=1) + smallest

    def _kept(self, sizes: Sequence[int]) -> int:
        return max(1, round(self.fraction * sum(sizes)))


def _largest(x: Tensor, k: int) -> Tensor:
    """Return the places of the k largest |x| of each row, largest first, ties by place: [N, k].

    The bits of a float32 magnitude, read as an integer, are ordered as the magnitudes are, NaN
    last. With the place (counted from the end) below them no two keys are equal, so that the
    answer is unique, which that of `torch.topk` on the magnitudes is not.
    """
    magnitude = x.to(torch.float32).abs().contiguous().view(torch.int32).to(torch.int64)
    from_end = torch.arange(x.shape[1] - 1, -1, -1, device=x.device)
    keys = (magnitude << 32) | from_end
    chosen = keys.topk(k, dim=1).values
    return x.shape[1] - 1 - (chosen & 0xFFFFFFFF)
