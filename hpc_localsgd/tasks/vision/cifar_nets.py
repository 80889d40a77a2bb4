"""The networks made for 32x32 images: ResNet-20, 32, 56, ..., WideResNet, and small VGGs."""

from __future__ import annotations

import torch
from torch import nn

from hpc_localsgd.tasks.vision.norms import MakeNorm

_VGG_CHANNELS = (64, 128, 256, 512, 512)
VGG_REPEATS = {  # filters in each stage
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class _Basic(nn.Module):
    """Block conv - norm - ReLU - conv - norm, added to the input (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: MakeNorm) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride)
        self.norm1 = norm(outputs)
        self.conv2 = _conv(outputs, outputs)
        self.norm2 = norm(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(out + self._shortcut(x))

    def _shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input, every other pixel where the block strides, new channels zero."""
        if not self.more and self.stride == 1:
            return x
        half = self.more // 2
        pad = (0, 0, 0, 0, half, self.more - half)
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], pad)


class _Wide(nn.Module):
    """Block norm - ReLU - conv - norm - ReLU - conv, added to the input (pre-activation)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: MakeNorm) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = _conv(inputs, outputs, stride)
        self.norm2 = norm(outputs)
        self.conv2 = _conv(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = torch.relu(self.norm1(x))
        out = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _stage(
    kind: type[_Basic] | type[_Wide], n: int, widths: tuple[int, int], stride: int, norm: MakeNorm
) -> nn.Module:
    inputs, outputs = widths
    first = kind(inputs, outputs, stride, norm)
    return nn.Sequential(first, *(kind(outputs, outputs, 1, norm) for _ in range(n - 1)))


def resnet(
    depth: int, classes: int, norm: MakeNorm, channels: int = 3, width: int = 16
) -> nn.Module:
    """Make a ResNet of depth 6n + 2 with `width`, 2 and 4 times as many channels.

    Source: He et al. 2016, section 4.2: shortcuts without parameters (option A), so that ResNet-20
    has 0.27 million parameters and ResNet-56 0.85 million at their width of 16.
    """
    n = (depth - 2) // 6
    w = (width, width, 2 * width, 4 * width)
    return _initialised(
        nn.Sequential(
            _conv(channels, w[0]),
            norm(w[0]),
            nn.ReLU(),
            _stage(_Basic, n, (w[0], w[1]), 1, norm),
            _stage(_Basic, n, (w[1], w[2]), 2, norm),
            _stage(_Basic, n, (w[2], w[3]), 2, norm),
            *_head(w[3], classes),
        )
    )


def wide_resnet(
    depth: int, width: int, classes: int, norm: MakeNorm, channels: int = 3
) -> nn.Module:
    """Make a WideResNet of depth 6n + 4, `width` times as wide, without dropout.

    Source: Zagoruyko & Komodakis 2016: WRN-28-10 has 36.5 million parameters.
    """
    n = (depth - 4) // 6
    w = (16, 16 * width, 32 * width, 64 * width)
    return _initialised(
        nn.Sequential(
            _conv(channels, 16),
            _stage(_Wide, n, (w[0], w[1]), 1, norm),
            _stage(_Wide, n, (w[1], w[2]), 2, norm),
            _stage(_Wide, n, (w[2], w[3]), 2, norm),
            norm(w[3]),
            nn.ReLU(),
            *_head(w[3], classes),
        )
    )


def vgg(depth: int, classes: int, channels: int = 3) -> nn.Module:
    """Make a VGG without norms, with one linear layer; VGG-16 has 14.7 million parameters.

    Source: Simonyan & Zisserman 2015 for the filters. Their three wide layers at the end are made
    for 224x224 images and would be nine tenths of the parameters.
    """
    layers: list[nn.Module] = []
    inputs = channels
    for outputs, repeats in zip(_VGG_CHANNELS, VGG_REPEATS[depth], strict=True):
        for _ in range(repeats):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return _initialised(nn.Sequential(*layers, *_head(inputs, classes)))


def _head(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def _initialised(net: nn.Module) -> nn.Module:
    """Initialise filters as He et al. 2015, and a linear layer with bias 0."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight)
            nn.init.zeros_(part.bias)
    return net
