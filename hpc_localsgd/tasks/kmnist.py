"""Kuzushiji-MNIST: 70000 handwritten Japanese characters of 28x28 pixels, from files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hpc_localsgd.tasks.idx_images import idx_images


@dataclass(frozen=True)
class kmnist(idx_images):
    """Kuzushiji-MNIST (Clanuwat et al. 2018): 60000 and 10000 images in 10 classes."""

    title: ClassVar[str] = "Kuzushiji-MNIST"
    inside: ClassVar[str] = "KMNIST/raw"  # where torchvision puts it
    source: ClassVar[str] = (
        "the four files are at https://github.com/rois-codh/kmnist; put them there"
    )
