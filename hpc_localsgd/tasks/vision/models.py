"""Image models by name: torchvision's, and those of 32x32 images."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.torchvision_import import require_torchvision
from hpc_localsgd.tasks.vision.cifar_nets import VGG_REPEATS, resnet, vgg, wide_resnet
from hpc_localsgd.tasks.vision.norms import MakeNorm, Norm, make_norm, replace_norms
from hpc_localsgd.tasks.vision.plain_nets import cnn, mlp

_SMALL = re.compile(r"(resnet|wide_resnet|cnn|mlp|cifar_vgg)(\d+)(?:_(\d+))?")
SMALL = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
SMALL_VGG = tuple(f"cifar_vgg{depth}" for depth in VGG_REPEATS)  # vgg16 is torchvision's
SMALL_WIDE = ("wide_resnet16_4", "wide_resnet16_8", "wide_resnet28_10")
PLAIN = ("cnn32", "mlp512")
OF_TORCHVISION = ("resnet50", "resnet152")  # though their depths are 6 n + 2
NO_AUXILIARY_HEADS: dict[str, dict[str, Any]] = {  # no second loss is wanted here
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def model_maker(
    name: str,
    classes: int,
    size: int,
    norm: Norm = "batch",
    groups: int = 8,
    ghost: int = 32,
    channels: int = 3,
) -> Callable[[], nn.Module]:
    """Return a function that makes a model, initialised from torch's global random numbers.

    Args:
        name: One of torchvision's (resnet50, vgg16_bn, densenet121, vit_b_16, ...), or, where
            torchvision has none of that name, one for small images: resnet{6n+2}, with its first
            width after it where that is not 16, and wide_resnet{6n+4}_{factor}: resnet20,
            resnet8_32, wide_resnet28_10; cifar_vgg16 and its like; cnn{width} and mlp{width}.
        classes: Length of the output.
        size: Height and width of the images.
        norm: See `make_norm`.
        groups: Of GroupNorm.
        ghost: Samples in a ghost batch.
        channels: Of the images; grey ones are given to torchvision's models three times over.

    Raises:
        ConfigurationError: No such model, no BatchNorm to replace, or images of the wrong size.
    """
    make = _maker(name, classes, (channels, size), norm, make_norm(norm, groups, ghost))
    try:
        with torch.device("meta"):  # shapes only
            made = make().eval()
            shape = made(torch.empty(2, channels, size, size)).shape
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"--task.model {name} cannot take images of {size}x{size} pixels: {error}"
        ) from error
    assert shape == (2, classes), f"{name} gives {tuple(shape)}"
    return make


def _maker(
    name: str, classes: int, image: tuple[int, int], kind: Norm, norm: MakeNorm
) -> Callable[[], nn.Module]:
    channels, size = image
    # Small models are found without importing torchvision, which takes a second and may be missing.
    if name not in OF_TORCHVISION and (small := _small_maker(name, classes, image, kind, norm)):
        return small
    if name not in _of_torchvision():
        raise ConfigurationError(_unknown(name))
    options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
    options |= NO_AUXILIARY_HEADS.get(name, {})

    def make() -> nn.Module:
        models = require_torchvision().models
        made: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
        if kind != "batch" and not replace_norms(made, norm):
            raise ConfigurationError(_nothing_to_replace(kind, name))
        return made if channels == 3 else _Coloured(made)

    return make


class _Coloured(nn.Module):
    """A model of colour images, applied to grey ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.model(x.expand(-1, 3, -1, -1))
        return out


def _small_maker(
    name: str, classes: int, image: tuple[int, int], kind: Norm, norm: MakeNorm
) -> Callable[[], nn.Module] | None:
    """Parse the model's name: a family, a depth or width, perhaps another width; None of others."""
    channels, size = image
    found = _SMALL.fullmatch(name)
    if found is None:
        return None
    family, first = found[1], int(found[2])
    second = int(found[3]) if found[3] else 0
    if kind != "batch" and family == "cifar_vgg":
        raise ConfigurationError(_nothing_to_replace(kind, name))
    if family == "resnet" and first in range(8, 1000, 6) and second >= 0:
        return lambda: resnet(first, classes, norm, channels, second or 16)
    if family == "wide_resnet" and first in range(10, 1000, 6) and second > 0:
        return lambda: wide_resnet(first, second, classes, norm, channels)
    if family == "cifar_vgg" and first in VGG_REPEATS and not found[3]:
        return lambda: vgg(first, classes, channels)
    if family == "cnn" and first > 0 and not found[3]:
        return lambda: cnn(first, classes, norm, channels, size)
    if family == "mlp" and first > 0 and not found[3]:
        return lambda: mlp(first, classes, channels, size)
    return None


@cache
def _of_torchvision() -> frozenset[str]:
    torchvision = require_torchvision()
    return frozenset(torchvision.models.list_models(module=torchvision.models))


def _nothing_to_replace(norm: str, name: str) -> str:
    return f"--task.norm {norm}: {name} has no BatchNorm to replace: leave it out"


def _unknown(name: str) -> str:
    known = [*SMALL, *SMALL_WIDE, *SMALL_VGG, *PLAIN, *sorted(_of_torchvision())]
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown --task.model {name!r} - {guess}({', '.join(known)})"
