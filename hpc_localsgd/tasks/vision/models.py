"""Image models by name: torchvision's, and those of 32x32 images."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from hpc_localsgd.tasks.vision.cifar_nets import VGG_REPEATS, resnet, vgg, wide_resnet
from hpc_localsgd.tasks.vision.norms import MakeNorm, Norm, make_norm, replace_norms
from hpc_localsgd.tasks.vision_ops import require_torchvision
from hpc_localsgd.types import ConfigurationError

_RESNET, _WIDE = re.compile(r"resnet(\d+)"), re.compile(r"wide_resnet(\d+)_(\d+)")
SMALL = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
SMALL_VGG = tuple(f"cifar_vgg{depth}" for depth in VGG_REPEATS)  # vgg16 is torchvision's
SMALL_WIDE = ("wide_resnet16_4", "wide_resnet16_8", "wide_resnet28_10")
NO_AUXILIARY_HEADS: dict[str, dict[str, Any]] = {  # a second loss is nobody's wish here
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def model_maker(
    name: str, classes: int, size: int, norm: Norm = "batch", groups: int = 8, ghost: int = 32
) -> Callable[[], nn.Module]:
    """What makes a freshly initialised model from torch's global random numbers.

    Args:
        name: One of torchvision's (resnet50, vgg16_bn, densenet121, vit_b_16, ...), or
            resnet{6n+2} and wide_resnet{6n+4}_{width} for small images, where torchvision has none
            of that name: resnet20, resnet56, wide_resnet28_10; or cifar_vgg16 and its like.
        classes: Length of the output.
        size: Height and width of the images.
        norm: See `make_norm`.
        groups: Of GroupNorm.
        ghost: Samples in a ghost batch.

    Raises:
        ConfigurationError: No such model, no BatchNorm to replace, or images of the wrong size.
    """
    make = _maker(name, classes, size, norm, groups, ghost)
    try:
        with torch.device("meta"):  # shapes only
            made = make().eval()
            shape = made(torch.empty(2, 3, size, size)).shape
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"--task.model {name} cannot take images of {size}x{size} pixels: {error}"
        ) from error
    assert shape == (2, classes), f"{name} gives {tuple(shape)}"
    return make


def _maker(
    name: str, classes: int, size: int, norm: Norm, groups: int, ghost: int
) -> Callable[[], nn.Module]:
    new_norm = make_norm(norm, groups, ghost)
    if name not in _of_torchvision():
        return _small_maker(name, classes, norm, new_norm)
    options: dict[str, Any] = {"image_size": size} if name.startswith("vit_") else {}
    options |= NO_AUXILIARY_HEADS.get(name, {})

    def make() -> nn.Module:
        models = require_torchvision().models
        made: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
        if norm != "batch" and not replace_norms(made, new_norm):
            raise ConfigurationError(_nothing_to_replace(norm, name))
        return made

    return make


def _small_maker(name: str, classes: int, kind: Norm, norm: MakeNorm) -> Callable[[], nn.Module]:
    if name in SMALL_VGG:
        if kind != "batch":
            raise ConfigurationError(_nothing_to_replace(kind, name))
        return lambda: vgg(int(name.removeprefix("cifar_vgg")), classes)
    wide, plain = _WIDE.fullmatch(name), _RESNET.fullmatch(name)
    if wide and int(wide[1]) in range(10, 1000, 6):
        depth, width = int(wide[1]), int(wide[2])
        return lambda: wide_resnet(depth, width, classes, norm)
    if plain and int(plain[1]) in range(8, 1000, 6):
        depth = int(plain[1])
        return lambda: resnet(depth, classes, norm)
    raise ConfigurationError(_unknown(name))


@cache
def _of_torchvision() -> frozenset[str]:
    torchvision = require_torchvision()
    return frozenset(torchvision.models.list_models(module=torchvision.models))


def _nothing_to_replace(norm: str, name: str) -> str:
    return f"--task.norm {norm}: {name} has no BatchNorm to replace: leave it out"


def _unknown(name: str) -> str:
    known = [*SMALL, *SMALL_WIDE, *SMALL_VGG, *sorted(_of_torchvision())]
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown --task.model {name!r} - {guess}({', '.join(known)})"
