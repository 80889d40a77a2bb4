"""What a codec is: a vector turned into bytes and back, and the memory of what was lost.

N rows are N workers' vectors, each coded by itself: the bytes of a row do not depend on the rows
beside it, so a worker sends the same bytes whichever process it lives in. Numbers lie in the bytes
in the machine's own order. Nothing here waits for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.types import Shape


class Compression(ABC):
    """How the workers' vectors are sent; a frozen dataclass.

    Attributes:
        error_feedback: Whether what was lost is added to what is sent next.
    """

    error_feedback: bool

    @abstractmethod
    def nbytes(self, tensors: Sequence[Any], itemsize: int) -> int:
        """Return the bytes that one worker sends.

        Args:
            tensors: Lengths of the tensors; shapes for a `MatrixCompression`.
            itemsize: Bytes of a number of the run.
        """


class MatrixCompression(Compression):
    """Interface of a codec that has to know the shapes of the tensors, not their lengths alone.

    What it sends can be averaged as it is, so it is given a function that averages, and calls it
    once for each of `messages`. Everything that it sends has the dtype of the run.
    """

    @abstractmethod
    def mean(
        self,
        x: Tensor,
        memory: Tensor,
        tensors: Sequence[Shape],
        average: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the mean of all workers in every row, in place, and the new memory.

        Args:
            x: [R, P], the vector of each worker; overwritten.
            memory: [R, sum(columns)], what this function returned last time; zeros at first.
            tensors: Shapes of the tensors in x.
            average: Replaces rows [R, any] by the mean of all workers' rows, in place.
        """

    @abstractmethod
    def messages(self, tensors: Sequence[Shape]) -> tuple[int, ...]:
        """Return how many numbers are in each average."""

    @abstractmethod
    def columns(self, tensors: Sequence[Shape]) -> tuple[int, ...]:
        """Return the length of each tensor's part of the memory, which lie one after another."""

    def nbytes(self, tensors: Sequence[Any], itemsize: int) -> int:
        """Return the bytes of all averages, see `Compression.nbytes`."""
        return itemsize * sum(self.messages(tensors))


class Compressor(Compression):
    """Interface of a codec; codecs are frozen dataclasses whose `repr` is a figure's legend.

    In every method `sizes` holds the lengths of the model's tensors in the flat vector, in order,
    so that a codec may keep one scale per tensor; they sum to P.

    NaN and infinity are never hidden: a row that has one decodes to a row with at least one number
    that is not finite. Each codec says which.

    Attributes:
        error_feedback: Whether `compress` adds what was lost to what is sent next. True by default
            for the biased codecs, False for those whose error is mere rounding.
        decay: Share of what was lost that is added, 1 unless the codec says otherwise.
        elementwise: Whether each number is coded by itself, so that ranks may average shares of the
            vector (reduce-scatter, all-gather) instead of gathering every worker's whole row.
    """

    elementwise: ClassVar[bool] = False
    decay: float = 1.0

    @abstractmethod
    def encode(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Encode rows: [N, P] float32 or float64 -> bytes to send, [N, payload(sizes)] uint8."""

    @abstractmethod
    def decode(self, sent: Tensor, sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Decode what was sent: [N, payload(sizes)] uint8 -> [N, P] of `dtype`."""

    def nbytes(self, tensors: Sequence[Any], itemsize: int) -> int:
        """Return the bytes of one worker's encoded row."""
        del itemsize
        return self.payload(tensors)

    @abstractmethod
    def payload(self, sizes: Sequence[int]) -> int:
        """Return the number of bytes of one worker's encoded row."""

    @abstractmethod
    def error_bound(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return a bound on ||decode(encode(x)) - x||_2 of each row: [N] float64."""


def codec_of_rows(given: Compression | None, who: str) -> Compressor | None:
    """Return a codec that codes each vector by itself, as `who` needs.

    Raises:
        ConfigurationError: It is made for averages over all workers.
    """
    if given is None or isinstance(given, Compressor):
        return given
    raise ConfigurationError(
        f"{who} codes each worker's vector by itself, and {given!r} is made for an average over "
        "all workers: type another compressor (int4, e3m0, sign, top_k)"
    )


def compress(
    codec: Compressor, x: Tensor, memory: Tensor | None, sizes: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Return codes of x [N, P], with error feedback where the codec has it.

        p = x + decay memory        sent = encode(p)        memory <- p - decode(sent)

    so that with decay 1 the sum of all that was decoded is the sum of all that was given, less the
    last memory.

    Source: Karimireddy et al., Error Feedback Fixes SignSGD, arXiv:1901.09847, Algorithm 2.

    Example:
        >>> from hpc_localsgd.compressors import TopK
        >>> codec, x = TopK(fraction=0.5), torch.tensor([[2.0, -3.0]])
        >>> sent, memory = compress(codec, x, None, [2])
        >>> codec.decode(sent, [2], x.dtype), memory
        (tensor([[ 0., -3.]]), tensor([[2., 0.]]))
        >>> sent, memory = compress(codec, x, memory, [2])  # of x + memory = [4, -3]
        >>> codec.decode(sent, [2], x.dtype), memory
        (tensor([[4., 0.]]), tensor([[ 0., -3.]]))

    Args:
        codec: What codes.
        x: One row per worker, not changed.
        memory: What this function returned last time; None the first time.
        sizes: Lengths of the model's tensors.

    Returns:
        The bytes [N, payload] and the new memory [N, P], None for a codec without error feedback.
        A number that is not finite stays in the memory and shows in everything sent afterwards.
    """
    if not codec.error_feedback:
        return codec.encode(x, sizes), None
    p = x if memory is None else torch.add(x, memory, alpha=codec.decay)
    sent = codec.encode(p, sizes)
    return sent, p - codec.decode(sent, sizes, p.dtype)


def to_bytes(numbers: Tensor) -> Tensor:
    """Return [N, n] of any type as [N, n * itemsize] uint8."""
    rows, columns = numbers.shape
    return numbers.reshape(-1).view(torch.uint8).reshape(rows, columns * numbers.element_size())


def from_bytes(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """Invert `to_bytes`, by copying, since a slice of a message may start at any byte."""
    if not raw.shape[1]:  # torch looks at the strides of nothing, too
        return raw.new_empty(raw.shape, dtype=dtype)
    return raw.clone(memory_format=torch.contiguous_format).view(dtype)


def pack(bits: Tensor) -> Tensor:
    """Pack bits, the first in the lowest place of a byte: [N, n] bool -> [N, ceil(n / 8)] uint8."""
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -bits.shape[1] % 8))
    octets = padded.view(len(bits), padded.shape[1] // 8, 8)
    return (octets << _places(bits)).sum(dim=2, dtype=torch.uint8)


def unpack(packed: Tensor, columns: int) -> Tensor:
    """Invert `pack`: [N, ceil(columns / 8)] uint8 -> [N, columns] bool."""
    octets = (packed[:, :, None] >> _places(packed)) & 1
    return octets.reshape(len(packed), -1)[:, :columns].to(torch.bool)


def _places(like: Tensor) -> Tensor:
    """Return 0 to 7, the place of each bit in its byte."""
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def per_tensor(x: Tensor, sizes: Sequence[int], measure: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a number per row and tensor: [N, P] -> [N, len(sizes)]; 0 for an empty tensor."""
    parts = x.split(list(sizes), dim=1)
    return torch.stack([measure(p) if p.shape[1] else x.new_zeros(len(x)) for p in parts], dim=1)


def per_entry(scales: Tensor, sizes: Sequence[int]) -> Tensor:
    """Repeat each tensor's number over its entries: [N, len(sizes)] -> [N, P]."""
    columns = scales.split(1, dim=1)
    return torch.cat([s.expand(-1, n) for s, n in zip(columns, sizes, strict=True)], dim=1)
