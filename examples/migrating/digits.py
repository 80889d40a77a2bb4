"""What the scripts of this folder share: handwritten digits, a model, its accuracy."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

EPOCHS = 6


def data(first: int, last: int) -> TensorDataset:
    """Return some of the 1797 images, standardised."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return TensorDataset(((x - x.mean()) / x.std())[first:last], torch.tensor(labels)[first:last])


def loader_of(rank: int, ranks: int) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Return the training batches of one rank: its share of 1500 images, equally many on all."""
    share = 1500 // ranks
    mine = Subset(data(0, 1500), range(rank * share, (rank + 1) * share))
    return DataLoader(mine, batch_size=32, shuffle=True, drop_last=True)


def make_model() -> nn.Module:
    """Make a small convolutional net."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


@torch.no_grad()
def show_accuracy(model: nn.Module) -> None:
    """Print the share of the 297 test images that are recognised."""
    x, y = data(1500, 1797).tensors
    print(f"test accuracy: {(model(x).argmax(1) == y).float().mean().item():.3f}")
