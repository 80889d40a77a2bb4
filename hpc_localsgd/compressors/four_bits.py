"""What codecs of four bits have in common: blocks, the largest magnitude of each, two to a byte."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from hpc_localsgd.compressors.base import Compressor, from_bytes, to_bytes
from hpc_localsgd.errors import ConfigurationError


@dataclass(frozen=True)
class FourBits(Compressor):
    """Codes of 0 to 15 for each number's share of the largest magnitude in its block.

    Blocks are cut of the flat vector and may reach from a tensor into the next; the last is
    shorter. A codec says which level each code stands for.

    Attributes:
        block: Numbers that share a scale: more => fewer bytes and more rounding.
        error_feedback: Carry the rounding over to the next message.
    """

    block: int = 128
    error_feedback: bool = False

    def __post_init__(self) -> None:
        """Check the length of a block."""
        if self.block < 1:
            raise ConfigurationError(
                f"{type(self).__name__.lower()} needs blocks of at least 1 number, got {self.block}"
            )

    @abstractmethod
    def codes(self, share: Tensor) -> Tensor:
        """Return the code, 0 to 15, of numbers in -1..1 or NaN: uint8 of the same shape."""

    @abstractmethod
    def levels(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the numbers in -1..1 that codes stand for, all finite, in `dtype`."""

    def encode(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Encode rows, see `Compressor.encode`."""
        scales = self.scales(x)
        # 0 / 0 in a block of zeros, and NaN, get any code: times the scale it is right for both.
        codes = self.codes((self._cut(x) / scales[:, :, None]).flatten(1)[:, : x.shape[1]])
        pairs = pad(codes, (0, codes.shape[1] % 2)).unflatten(1, (-1, 2))
        return torch.cat([to_bytes(scales), pairs[:, :, 0] | (pairs[:, :, 1] << 4)], dim=1)

    def decode(self, sent: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Decode rows, see `Compressor.decode`."""
        P, head = sum(sizes), 4 * self._blocks(sizes)
        scales, packed = from_bytes(sent[:, :head], torch.float32), sent[:, head:]
        codes = torch.stack([packed & 15, packed >> 4], dim=2).flatten(1)[:, :P]
        blocks = self._cut(self.levels(codes, dtype)) * scales.to(dtype)[:, :, None]
        return blocks.flatten(1)[:, :P]

    def payload(self, sizes: Sequence[int]) -> int:
        """Return the bytes of a row, see `Compressor.payload`."""
        return -(-sum(sizes) // 2) + 4 * self._blocks(sizes)

    def scales(self, x: Tensor) -> Tensor:
        """Return max |x| of each block: [N, blocks] float32, NaN where x has one."""
        return self._cut(x).abs().amax(dim=2).to(torch.float32)

    def scale_of_each(self, x: Tensor) -> Tensor:
        """Return max |x| of the block of each number: [N, P] float64."""
        return self.scales(x).double().repeat_interleave(self.block, dim=1)[:, : x.shape[1]]

    def _blocks(self, sizes: Sequence[int]) -> int:
        return -(-sum(sizes) // self.block)

    def _cut(self, x: Tensor) -> Tensor:
        """Cut rows in blocks, the last filled with zeros: [N, P] -> [N, blocks, block]."""
        return pad(x, (0, -x.shape[1] % self.block)).unflatten(1, (-1, self.block))
