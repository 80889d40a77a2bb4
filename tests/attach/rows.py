"""Batches of a few rows, and steps on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def train(model: nn.Module, optimizer: Any, sync: Any, rank: int, n: int, width: int = 4) -> None:
    """Steps of n batches [6, width], other ones on each rank."""
    for _ in range(n):
        draws = torch.Generator().manual_seed(100 * rank + sync.t)
        optimizer.zero_grad()
        model(torch.randn(6, width, generator=draws) + rank).square().mean().backward()
        optimizer.step()
        sync.step()


def batches(rank: int) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(rank)
    return [torch.randn(6, 4, generator=draws) + rank for _ in range(3)]
