"""Two small nets without shortcuts, of a chosen width: a perceptron and a convolutional net."""

from __future__ import annotations

from torch import nn

from hpc_localsgd.tasks.vision.norms import MakeNorm

HIDDEN = 128  # of the convolutional net's last layer but one


def mlp(width: int, classes: int, channels: int, size: int) -> nn.Module:
    """Make a perceptron with two hidden ReLU layers of `width`, and no norm."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * size * size, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


def cnn(width: int, classes: int, norm: MakeNorm, channels: int, size: int) -> nn.Module:
    """Make two 3x3 convolutions of `width` and 2 `width` channels, pooled, and a hidden layer."""
    side = size // 4
    return nn.Sequential(
        *_block(channels, width, norm),
        *_block(width, 2 * width, norm),
        nn.Flatten(),
        nn.Linear(2 * width * side * side, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, classes),
    )


def _block(inputs: int, outputs: int, norm: MakeNorm) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [convolution, norm(outputs), nn.ReLU(), nn.MaxPool2d(2)]
