"""What a world asks of a compressor, codes of one length for rows of one length; a coded mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from hpc_localsgd.types import Rows, Vector
    from hpc_localsgd.worlds.placement import Placement
    from hpc_localsgd.worlds.transport import Transport


class Codec(Protocol):
    """Encoder and decoder of rows; `compressors.base` says what each method does."""

    def encode(self, x: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return the codes uint8 [R, m] of the rows x [R, P]."""

    def decode(self, sent: torch.Tensor, sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return the rows [R, P] that codes [R, m] stand for."""

    def payload(self, sizes: Sequence[int]) -> int:
        """Return m, the bytes of a row's code."""


def mean_of_shares(x: Rows, codec: Codec, placement: Placement, transport: Transport) -> Vector:
    """Return the average [P] of all workers' rows, of which each rank averages a share; see World.

    Args:
        x: [R, P], the rows of this rank.
        codec: Codes number by number.
        placement: Who has how many rows.
        transport: Moves the codes.
    """
    P, dtype, n = x.shape[1], x.dtype, placement.n
    share = -(-P // n)
    padded = torch.nn.functional.pad(x, (0, share * n - P))
    sent = codec.encode(padded.reshape(-1, share), (share,)).unflatten(0, (-1, n))  # [R, n, m]
    by_rank = placement.padded(sent).transpose(0, 1).contiguous()
    shares = placement.together(transport.alltoall(by_rank))  # [K, m], mine of all
    mine = codec.decode(shares, (share,), dtype).mean(0, keepdim=True)
    mean = transport.allgather(codec.encode(mine, (share,))).flatten(0, 1)  # [n, m]
    return codec.decode(mean, (share,), dtype).reshape(-1)[:P]
