"""The models that are timed, and synthetic data of their shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

CLASSES = 10


@dataclass(frozen=True)
class Subject:
    """A model, the shape of one input, the samples a worker takes in a step, and of how many."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    samples: int = 256

    def on(self, device: torch.device) -> Subject:
        """Return what is timed on a device: on a GPU with enough samples a step to fill it."""
        if device.type == "cpu":
            return self
        return replace(self, batch=32 * self.batch, samples=max(self.samples, 64 * self.batch))

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs [samples, ...] and labels [samples], the same in every process."""
        random = torch.Generator().manual_seed(0)
        inputs = torch.randn(self.samples, *self.shape, generator=random)
        return inputs, torch.randint(0, CLASSES, (self.samples,), generator=random)


def conv() -> nn.Module:
    """Make a small convolutional net: 21 thousand parameters, about two milliseconds a step."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, CLASSES),
    )


def mlp() -> nn.Module:
    """Make a perceptron of 4.1 million parameters: much to send for little computing."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 1664),
        nn.ReLU(),
        nn.Linear(1664, 1664),
        nn.ReLU(),
        nn.Linear(1664, CLASSES),
    )


def resnet18() -> nn.Module:
    """Make torchvision's ResNet-18: 11.2 million parameters in 62 tensors."""
    from hpc_localsgd.tasks.torchvision_import import import_torchvision

    return import_torchvision().models.resnet18(num_classes=CLASSES)


def resnet50() -> nn.Module:
    """Make torchvision's ResNet-50: 23.5 million parameters; a step of seconds on one core."""
    from hpc_localsgd.tasks.torchvision_import import import_torchvision

    return import_torchvision().models.resnet50(num_classes=CLASSES)


SUBJECTS = {
    "conv": Subject(conv, (1, 28, 28), 16),
    "mlp": Subject(mlp, (1, 28, 28), 16),
    "resnet18": Subject(resnet18, (3, 64, 64), 4),
    "resnet50": Subject(resnet50, (3, 224, 224), 4, samples=32),
}
