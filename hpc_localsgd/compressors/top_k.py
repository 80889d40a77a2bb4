"""The largest entries, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpc_localsgd.compressors.base import Compressor, from_bytes, to_bytes
from hpc_localsgd.compressors.sparse import Sparse, largest
from hpc_localsgd.errors import ConfigurationError


@dataclass(frozen=True)
class TopK(Sparse):
    """The k entries largest in magnitude, of the whole vector; the others are sent as zero.

        k = fraction P, to the nearest whole number, at least 1 of a vector that is not empty
        C(x)_i = x_i if i is among the k largest |x_i|, else 0
        ||C(x) - x||_2^2 <= (1 - k / P) ||x||_2^2, and the values' own rounding

    Source: Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, arXiv:1809.07599.
    Here differs: of equal magnitudes (as float32) the one that comes first in the vector is taken,
    so that the bytes are the same on every device.
    Sends: k (4 + 4) bytes, k (4 + 2) with values in float16; with a compressor 4 k and its code of
    k numbers, the largest first.
    Not finite: NaN counts as larger than infinity and infinity as larger than any number, so they
    are the first to be sent, each where it is; if more than k are not finite, k of them are sent.

    Example:
        >>> codec = TopK(fraction=0.5)
        >>> sent = codec.encode(torch.tensor([[1.0, -3.0, 0.5, 2.0]]), [4])
        >>> sent.shape, codec.decode(sent, [4], torch.float32)
        (torch.Size([1, 16]), tensor([[ 0., -3.,  0.,  2.]]))
        >>> from hpc_localsgd.compressors import Int4
        >>> codec = TopK(fraction=0.5, compressor=Int4())  # of -3 and 2: -7 and 5 times 3 / 7
        >>> sent = codec.encode(torch.tensor([[1.0, -3.0, 0.5, 2.0]]), [4])
        >>> sent.shape, codec.decode(sent, [4], torch.float32)
        (torch.Size([1, 13]), tensor([[ 0.0000, -3.0000,  0.0000,  2.1429]]))

    Attributes:
        fraction: Share of the entries kept: more => less compression.
        values: Type in which the values travel; float16 overflows to infinity from 65520 on.
        error_feedback: Carry what was lost over to the next message.
        compressor: What codes the values instead: `top_k` then four bits.
    """

    fraction: float = 0.01
    values: Literal["float32", "float16"] = "float32"
    error_feedback: bool = True
    compressor: Compressor | None = None

    def __post_init__(self) -> None:
        """Check the fraction and the type of the values."""
        if not 0 < self.fraction <= 1:
            raise ConfigurationError(
                f"top_k keeps a fraction above 0 and at most 1 of the entries, got "
                f"{self.fraction}: to keep one in a hundred, type fraction 0.01"
            )
        self.check_values()

    def kept(self, sizes: Sequence[int]) -> int:
        """Return k, see `Sparse.kept`."""
        P = sum(sizes)
        return max(min(1, P), round(self.fraction * P))

    def least_share(self, sizes: Sequence[int]) -> float:
        """Return k / P, see `Sparse.least_share`."""
        return self.kept(sizes) / max(1, sum(sizes))

    def places(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return where the largest are, largest first, see `Sparse.places`."""
        return largest(x, self.kept(sizes))

    def place_bytes(self, sizes: Sequence[int]) -> int:
        """Return four bytes for each place."""
        return 4 * self.kept(sizes)

    def write_places(self, places: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return places as int32, see `Sparse.write_places`."""
        return to_bytes(places.to(torch.int32))

    def read_places(self, sent: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return places from int32, see `Sparse.read_places`."""
        return from_bytes(sent, torch.int32).to(torch.int64)
