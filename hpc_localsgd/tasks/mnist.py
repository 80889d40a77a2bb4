"""MNIST: 70000 handwritten digits of 28x28 pixels, from files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hpc_localsgd.tasks.idx_images import idx_images


@dataclass(frozen=True)
class mnist(idx_images):
    """MNIST (LeCun et al. 1998): 60000 training and 10000 test images in 10 classes."""

    title: ClassVar[str] = "MNIST"
    inside: ClassVar[str] = "MNIST/raw"  # where torchvision puts it
    target: ClassVar[float | None] = 0.97
    source: ClassVar[str] = (
        "the four files are at https://ossci-datasets.s3.amazonaws.com/mnist/; put them there"
    )
