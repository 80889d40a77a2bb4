"""One bit a number and a scale per tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_localsgd.compressors.base import (
    Compressor,
    from_bytes,
    pack,
    per_entry,
    per_tensor,
    to_bytes,
    unpack,
)


@dataclass(frozen=True)
class Sign(Compressor):
    """The sign of each number, and the mean magnitude of each tensor; sign(0) = +1.

        s = ||x||_1 / n           C(x) = s sign(x)               for a tensor of n entries
        ||C(x) - x||_2^2 = ||x||_2^2 (1 - ||x||_1^2 / (n ||x||_2^2))

    Source: Karimireddy et al., arXiv:1901.09847; per tensor as in Lin et al., arXiv:1808.07217
    (local sign SGD with `error_feedback=False`, local EF-sign SGD with it).
    Here differs: the released code of Lin et al. averages scales and signs apart,
    mean_k(s_k) mean_k(sign_k), which is not what the workers' memories were charged with; rows
    decoded here are averaged as mean_k(s_k sign_k). It sends each sign as a float32; here eight
    signs share a byte (1 for minus, the first sign in the lowest bit, the last byte filled with 0).
    Sends: ceil(P / 8) bytes and 4 for each tensor.
    Not finite: NaN anywhere in a tensor makes that whole tensor NaN; infinity, all of it infinite.

    Example:
        >>> codec = Sign()
        >>> sent = codec.encode(torch.tensor([[1.0, -2.0, 3.0]]), [3])
        >>> sent.shape, codec.decode(sent, [3], torch.float32)
        (torch.Size([1, 5]), tensor([[ 2., -2.,  2.]]))

    Attributes:
        error_feedback: Carry what was lost over to the next message. Without it the method need
            not converge, however small the learning rate.
    """

    error_feedback: bool = True

    def encode(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Encode rows, see `Compressor.encode`."""
        return torch.cat([to_bytes(_scales(x, sizes)), pack(x < 0)], dim=1)

    def decode(self, sent: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Decode rows, see `Compressor.decode`."""
        head = 4 * len(sizes)
        scales = per_entry(from_bytes(sent[:, :head], torch.float32).to(dtype), sizes)
        return torch.where(unpack(sent[:, head:], sum(sizes)), -scales, scales)

    def payload(self, sizes: Sequence[int]) -> int:
        """Return the bytes of a row, see `Compressor.payload`."""
        return -(-sum(sizes) // 8) + 4 * len(sizes)

    def error_bound(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the error of `Compressor.error_bound`: the identity above, over all tensors."""
        lost = x.abs() - per_entry(_scales(x, sizes).double(), sizes)
        return lost.norm(dim=1) * (1 + 2**-20)


def _scales(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the mean |x| of each tensor: [N, len(sizes)] float32, NaN where x has one."""
    # Summed in float64, else the last bit would depend on the number of rows and of threads.
    means = per_tensor(x, sizes, lambda part: part.abs().mean(dim=1, dtype=torch.float64))
    return means.to(torch.float32)
