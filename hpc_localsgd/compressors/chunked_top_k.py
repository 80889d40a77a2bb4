"""The largest entries of each chunk: their places take a few bits only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpc_localsgd.compressors.base import Compressor, pack, unpack
from hpc_localsgd.compressors.sparse import Sparse, largest
from hpc_localsgd.errors import ConfigurationError


@dataclass(frozen=True)
class ChunkedTopK(Sparse):
    """The k entries largest in magnitude of each chunk of the vector; the others are sent as zero.

        C(x)_i = x_i if i is among the k largest |x_i| of its chunk, else 0
        p = x + decay memory        sent = C(p)        memory <- p - sent

    With `DiLoCo(momentum=0)` this is SparseLoCo, whose decaying memory takes the place of the outer
    momentum: there the values have two bits; `compressor=Int4()` codes them with four.

    Source: Sarfi et al., SparseLoCo, arXiv:2508.15706 (chunks of 4096, k = 64, decay 0.95).
    Here differs: chunks are runs of the flat vector, not squares of 64 x 64 of each matrix. The
    last may be shorter, and keeps as large a share, rounded up.
    Sends: for each entry kept ceil(log2 chunk) bits of its place in the chunk, 12 with the
    defaults, and 4 bytes of its value, 2 in float16; with a compressor its code of all values.
    Not finite: NaN counts as larger than infinity and infinity as larger than any number, so they
    are the first of a chunk to be sent, each where it is.

    Example:
        >>> codec = ChunkedTopK(chunk=4, kept_of_chunk=1)
        >>> sent = codec.encode(torch.tensor([[1.0, -3.0, 0.5, 2.0, 0.1, 0.0]]), [6])
        >>> sent.shape, codec.decode(sent, [6], torch.float32)  # two places of two bits: a byte
        (torch.Size([1, 9]), tensor([[ 0.0000, -3.0000,  0.0000,  0.0000,  0.1000,  0.0000]]))

    Attributes:
        chunk: Numbers in a chunk; in smaller ones a place takes fewer bits, and the choice is
            worse.
        kept_of_chunk: k.
        decay: Share of the memory that is added to the next message; 1 loses nothing for good.
        values: Type in which the values travel; float16 overflows to infinity from 65520 on.
        error_feedback: Carry what was lost over to the next message.
        compressor: What codes the values instead.
    """

    chunk: int = 4096
    kept_of_chunk: int = 64
    decay: float = 0.95
    values: Literal["float32", "float16"] = "float32"
    error_feedback: bool = True
    compressor: Compressor | None = None

    def __post_init__(self) -> None:
        """Check the chunk, what is kept of it, the decay and the type of the values."""
        if not (0 < self.kept_of_chunk <= self.chunk and self.chunk > 1 and 0 < self.decay <= 1):
            raise ConfigurationError(
                "chunked_top_k needs chunk >= 2, 1 <= kept_of_chunk <= chunk and 0 < decay <= 1, "
                f"got {self.chunk}, {self.kept_of_chunk}, {self.decay}"
            )
        self.check_values()

    def kept(self, sizes: Sequence[int]) -> int:
        """Return k for each whole chunk and a share of it for the last, see `Sparse.kept`."""
        whole, rest = divmod(sum(sizes), self.chunk)
        return whole * self.kept_of_chunk + self._of(rest)

    def least_share(self, sizes: Sequence[int]) -> float:
        """Return k / chunk, or what a vector shorter than a chunk keeps of itself."""
        P = sum(sizes)
        return self._of(P) / max(1, P) if P < self.chunk else self.kept_of_chunk / self.chunk

    def places(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return where the largest are, chunk by chunk, see `Sparse.places`."""
        whole = x.shape[1] // self.chunk
        chunks = x[:, : whole * self.chunk].reshape(-1, self.chunk)
        begins = self.chunk * torch.arange(whole, device=x.device)[:, None]
        found = largest(chunks, self.kept_of_chunk).unflatten(0, (len(x), whole)) + begins
        rest = x[:, whole * self.chunk :]
        last = largest(rest, self._of(rest.shape[1])) + whole * self.chunk
        return torch.cat([found.flatten(1), last], dim=1)

    def place_bytes(self, sizes: Sequence[int]) -> int:
        """Return the bytes of the places' bits."""
        return -(-self.kept(sizes) * self._bits // 8)

    def write_places(self, places: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the bits of places within chunks, see `Sparse.write_places`."""
        within = (places % self.chunk)[:, :, None]
        bits = (within >> torch.arange(self._bits, device=places.device)) & 1
        return pack(bits.flatten(1).bool())

    def read_places(self, sent: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return places in the vector, see `Sparse.read_places`."""
        kept = self.kept(sizes)
        bits = unpack(sent, kept * self._bits).unflatten(1, (kept, self._bits)).long()
        within = (bits << torch.arange(self._bits, device=sent.device)).sum(dim=2)
        chunks = torch.arange(kept, device=sent.device) // self.kept_of_chunk
        return within + self.chunk * chunks

    def _of(self, rest: int) -> int:
        """Return how many entries are kept of a chunk of this length."""
        return -(-self.kept_of_chunk * rest // self.chunk)

    @property
    def _bits(self) -> int:
        return (self.chunk - 1).bit_length()
