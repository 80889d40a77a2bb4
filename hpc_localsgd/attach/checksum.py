"""Checksums of tensors: of every bit, and of where it is."""

from __future__ import annotations

import torch

MIXED = 2**20  # numbers that are copied at a time


def checksum(x: torch.Tensor) -> int:
    """Return a checksum of a contiguous tensor, computed where the tensor is.

    Each number is mixed with its place: a plain sum does not tell a mask from another with as many
    ones, or a permutation from the next.
    """
    numbers = _integers(x)
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    for begin in range(0, len(numbers), MIXED):
        part = numbers[begin : begin + MIXED].long()
        places = torch.arange(begin, begin + len(part), device=x.device)
        total += _mixed(_mixed(places) ^ part).sum()
    return int(total)


def plain_sum(x: torch.Tensor) -> int:
    """Return the checksum of version 0.1, which does not depend on the order of the numbers."""
    return int(_integers(x).sum(dtype=torch.int64))


def _integers(x: torch.Tensor) -> torch.Tensor:
    """Return the bits of a contiguous tensor, in order."""
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}.get(x.itemsize, torch.uint8)
    return x.detach().view(-1).view(integer)


def _mixed(z: torch.Tensor) -> torch.Tensor:
    """Return the numbers, each mixed by the finaliser of splitmix64.

    Source: Steele, Lea & Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    z = z - 0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * factor
    return z ^ (z >> 31 & (1 << 33) - 1)
