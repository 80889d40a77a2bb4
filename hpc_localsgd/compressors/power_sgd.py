"""Matrices as the product of two thin ones, which an all-reduce can average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from hpc_localsgd.compressors.base import MatrixCompression
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.types import Shape, lengths
from hpc_localsgd.worlds.matmul_precision import full_precision_matmul

# Of each tensor: its part of x, its part of the memory, its shape.
Parts = Sequence[tuple[Tensor, Tensor, Shape]]


@dataclass(frozen=True)
class PowerSGD(MatrixCompression):
    """The mean of the workers' matrices, to rank r: a step of subspace iteration every time.

        M_k = x_k + memory_k        P <- orthonormal columns of mean_k M_k Q        [n, r]
        Q <- mean_k M_k^T P         mean_k x_k ~ P Q^T                              [m, r]
        memory_k <- M_k - P P^T M_k

    Q is what it was last time, so that the iteration goes on from one exchange to the next; at
    first it is drawn, equal for all. Filters are matrices of n output channels. What has one
    dimension is sent whole, and so is a matrix whose factors would be longer.

    Source: Vogels, Karimireddy, Jaggi, PowerSGD, NeurIPS 2019, arXiv:1905.13727, Algorithms 1 and
    2 (rank 2 for their ResNet-18, 4 for their LSTM, here the default), of gradients.
    Here differs: columns are made orthonormal by a QR decomposition. The released code, and torch's
    hook, put M_k - P Q^T with the averaged Q in the memory: the same mean, but everything by which
    worker k differs from the others accumulates there, along P too.
    Sends: r (n + m) numbers of the run's dtype for a matrix, in two averages one after the other,
    and what is sent whole.
    Not finite: a NaN or infinity in a matrix makes it NaN on all workers.

    Example:
        >>> codec, x = PowerSGD(rank=1), torch.tensor([[2.0, 4.0, 6.0, 1.0, 2.0, 3.0, 5.0]])
        >>> tensors = ((2, 3), (1,))  # a matrix of rank 1, and a bias
        >>> mean, memory = codec.mean(x, torch.zeros(1, 9), tensors, lambda sent: sent)
        >>> codec.nbytes(tensors, 4), [round(number, 3) for number in mean[0].tolist()]
        (24, [2.0, 4.0, 6.0, 1.0, 2.0, 3.0, 5.0])

    Attributes:
        rank: r: more => less compression.
        error_feedback: Carry what was lost over to the next message.
    """

    rank: int = 4
    error_feedback: bool = True

    def __post_init__(self) -> None:
        """Check the rank."""
        if self.rank < 1:
            raise ConfigurationError(
                f"power_sgd needs a rank of at least 1, got {self.rank}: type rank 4"
            )

    def mean(
        self,
        x: Tensor,
        memory: Tensor,
        tensors: Sequence[Shape],
        average: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the mean of all workers and the new memory, see `MatrixCompression.mean`."""
        each = list(
            zip(
                x.split(lengths(tensors), dim=1),
                memory.split(self.columns(tensors), dim=1),
                tensors,
                strict=True,
            )
        )
        coded = [one for one in each if self._cut(one[2])]
        with full_precision_matmul():
            self._replace(each, coded, average)
        return x, memory

    def _replace(self, each: Parts, coded: Parts, average: Callable[[Tensor], Tensor]) -> None:
        """Put the mean into every part, and what is kept into its part of the memory."""
        M = [self._matrix(*one) for one in coded]
        P = [m @ self._start(kept, shape) for m, (_, kept, shape) in zip(M, coded, strict=True)]
        _average([*P, *(part for part, _, shape in each if not self._cut(shape))], average)
        P = [torch.linalg.qr(p[0]).Q for p in P]  # [n, r], on all workers the same
        own = [m.transpose(1, 2) @ p for m, p in zip(M, P, strict=True)]
        Q = [q.clone() for q in own]
        _average(Q, average)
        for (part, kept, _), m, p, mine, q in zip(coded, M, P, own, Q, strict=True):
            part[:] = (p @ q[0].T).flatten()
            lost = [m - p @ mine.transpose(1, 2)] if self.error_feedback else []
            kept[:] = torch.cat([numbers.flatten(1) for numbers in (q, *lost)], dim=1)

    def messages(self, tensors: Sequence[Shape]) -> tuple[int, int]:
        """Return how many are in the first average, P and what is whole, and in the second, Q."""
        cut = [_as_matrix(s) for s in tensors if self._cut(s)]
        whole = sum(prod(s) for s in tensors if not self._cut(s))
        return self.rank * sum(n for n, _ in cut) + whole, self.rank * sum(m for _, m in cut)

    def columns(self, tensors: Sequence[Shape]) -> tuple[int, ...]:
        """Return the length of each tensor's part of the memory: Q, and what was lost."""
        lost = int(self.error_feedback)
        return tuple(
            _as_matrix(s)[1] * self.rank + lost * prod(s) if self._cut(s) else 0 for s in tensors
        )

    def _cut(self, shape: Shape) -> bool:
        """Return whether a tensor is sent as factors."""
        return len(shape) > 1 and self.rank * sum(_as_matrix(shape)) <= prod(shape)

    def _start(self, kept: Tensor, shape: Shape) -> Tensor:
        """Return Q of the last time, [R, m, r]; columns of 0 are drawn.

        All columns are 0 at first. A mean of lower rank (all zeros, for example) leaves some 0
        later, and a product with these would stay 0.
        """
        m = _as_matrix(shape)[1]
        q = kept[:, : m * self.rank].unflatten(1, (m, self.rank))
        return torch.where((q == 0).all(1, keepdim=True), _drawn(m, self.rank).to(q), q)

    def _matrix(self, part: Tensor, kept: Tensor, shape: Shape) -> Tensor:
        """Return the vectors to send, with what was lost before, as matrices [R, n, m]."""
        lost = kept[:, _as_matrix(shape)[1] * self.rank :]
        return (part + lost if self.error_feedback else part).unflatten(1, _as_matrix(shape))


@lru_cache(maxsize=64)
def _drawn(m: int, rank: int) -> Tensor:
    """Return the first Q, [m, r] in float64: the same on every worker."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(m * rank, generator=draw, dtype=torch.float64).view(m, rank)


def _as_matrix(shape: Shape) -> tuple[int, int]:
    """Return n and m of a tensor of at least two dimensions."""
    return shape[0], prod(shape[1:])


def _average(tensors: Sequence[Tensor], average: Callable[[Tensor], Tensor]) -> None:
    """Average tensors [R, ...] in place, as one message."""
    lengths = [t[0].numel() for t in tensors]
    if not sum(lengths):
        return
    message = average(torch.cat([t.flatten(1) for t in tensors], dim=1))
    for t, mean in zip(tensors, message.split(lengths, dim=1), strict=True):
        t.copy_(mean.view_as(t))
