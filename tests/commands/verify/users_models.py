"""Models as a user might hand them to `verify --model`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

Examples = tuple[nn.Module, torch.Tensor, torch.Tensor]
not_callable = 3


def images(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 1, 6, 6), torch.arange(count) % 3


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 11), nn.ReLU(), nn.Linear(11, 3))


def batchnorm() -> Examples:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    return (module, *images())


def dropout() -> Examples:
    return (nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3)), *images())


class Words(nn.Module):
    """Tokens in, a class out: the embedding is tied to a projection and its scale is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 5)
        self.mix = nn.Linear(5, 5)
        self.scale = nn.Parameter(torch.full((5,), 1.5), requires_grad=False)
        self.out = nn.Linear(5, 9, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.mix(self.embedding(tokens).mean(1))) * self.scale
        return self.out(hidden)


def tied_and_frozen() -> Examples:
    return Words(), torch.randint(9, (10, 4)), torch.arange(10) % 9


class Different(nn.Module):
    """Its gradient depends on how often it was asked, as that of an unordered sum would."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1)) * (1 + 1e-12 * np.random.rand())


def different() -> Examples:
    return (Different(), *images())


class OnlySinglePrecision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1) + torch.zeros(36)) @ torch.eye(3)


def single_precision() -> Examples:
    return (OnlySinglePrecision(), *images())


def drawn_by_every_rank() -> Examples:
    """Frozen numbers that do not come from torch's seed: another model on every rank."""
    module = mlp()
    module[1].weight.data = torch.from_numpy(np.random.default_rng().random((11, 36))).float()
    module[1].weight.requires_grad = False
    return (module, *images())


def all_frozen() -> Examples:
    return (mlp().requires_grad_(False), *images())


def raises() -> Any:
    raise RuntimeError("no weights here")


def nothing() -> Any:
    return None


def fractions() -> Any:
    return mlp(), torch.randn(4, 36), torch.randn(4)


def wrong_shape() -> Examples:
    return mlp(), torch.randn(4, 35), torch.arange(4) % 3
