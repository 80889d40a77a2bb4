"""What codecs that keep a few entries have in common: where these are, and how they travel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hpc_localsgd.compressors.base import Compressor, codec_of_rows, from_bytes, to_bytes
from hpc_localsgd.errors import ConfigurationError

_VALUE_TYPES = {"float32": torch.float32, "float16": torch.float16}


class Sparse(Compressor):
    """Places, and the values that are there; all others are sent as zero.

    Attributes:
        values: Type in which the values travel; float16 overflows to infinity from 65520 on.
        compressor: Codec of the values instead, as one vector in the order of the places; what it
            rounds off is lost like the entries that are not kept.
    """

    values: Literal["float32", "float16"]
    compressor: Compressor | None

    @abstractmethod
    def kept(self, sizes: Sequence[int]) -> int:
        """Return the number of entries kept of a row."""

    @abstractmethod
    def least_share(self, sizes: Sequence[int]) -> float:
        """Return at least what share of a row's squared norm is kept, whatever the row."""

    @abstractmethod
    def places(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return where the entries to be kept are: [N, P] -> [N, kept] int64."""

    @abstractmethod
    def place_bytes(self, sizes: Sequence[int]) -> int:
        """Return the bytes of a row's places."""

    @abstractmethod
    def write_places(self, places: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return places as bytes: [N, kept] int64 -> [N, place_bytes] uint8."""

    @abstractmethod
    def read_places(self, sent: Tensor, sizes: Sequence[int]) -> Tensor:
        """Invert `write_places`."""

    def check_values(self) -> None:
        """Check the type of the values, and what codes them.

        Raises:
            ConfigurationError: There is no such type; or it codes matrices.
        """
        name = type(self).__module__.rpartition(".")[2]
        codec_of_rows(self.compressor, name)
        if self.values not in _VALUE_TYPES:
            raise ConfigurationError(
                f"{name} sends its values as {' or '.join(_VALUE_TYPES)}, not as {self.values!r}: "
                "type values float32"
            )

    def encode(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Encode rows, see `Compressor.encode`."""
        places = self.places(x, sizes)
        values = x.gather(1, places)
        if self.compressor is None:
            coded = to_bytes(values.to(_VALUE_TYPES[self.values]))
        else:
            coded = self.compressor.encode(values, (self.kept(sizes),))
        return torch.cat([self.write_places(places, sizes), coded], dim=1)

    def decode(self, sent: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Decode rows, see `Compressor.decode`."""
        head = self.place_bytes(sizes)
        places, coded = self.read_places(sent[:, :head], sizes), sent[:, head:]
        if self.compressor is None:
            values = from_bytes(coded, _VALUE_TYPES[self.values]).to(dtype)
        else:
            values = self.compressor.decode(coded, (self.kept(sizes),), dtype)
        return values.new_zeros(len(sent), sum(sizes)).scatter_(1, places, values)

    def payload(self, sizes: Sequence[int]) -> int:
        """Return the bytes of a row, see `Compressor.payload`."""
        kept = self.kept(sizes)
        if self.compressor is None:
            return self.place_bytes(sizes) + kept * _VALUE_TYPES[self.values].itemsize
        return self.place_bytes(sizes) + self.compressor.payload((kept,))

    def error_bound(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the bound of `Compressor.error_bound`, for x in the range of the values' type."""
        dropped = (1 - self.least_share(sizes)) ** 0.5 * (1 + 2**-20)
        if self.compressor is not None:
            values = x.gather(1, self.places(x, sizes))
            rounded = self.compressor.error_bound(values, (self.kept(sizes),))
            return dropped * x.double().norm(dim=1) + rounded
        finfo = torch.finfo(_VALUE_TYPES[self.values])
        smallest = finfo.tiny * finfo.eps * sum(sizes) ** 0.5
        return (dropped + finfo.eps) * x.double().norm(dim=1) + smallest


def largest(x: Tensor, k: int) -> Tensor:
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
