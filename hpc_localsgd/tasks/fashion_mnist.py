"""Fashion-MNIST: 70000 pictures of clothes, 28x28 pixels, from files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hpc_localsgd.tasks.idx_images import idx_images

DEBIAN = "/usr/share/datasets/fashion-mnist"


@dataclass(frozen=True)
class fashion_mnist(idx_images):
    """Fashion-MNIST (Xiao et al. 2017): 60000 training and 10000 test images in 10 classes.

    Augmented, where that is asked for, by a random crop out of a frame of 2 pixels, and a flip.

    Attributes:
        data: Folder with the four published files, gzipped or not. The default is where Debian's
            and Ubuntu's package dataset-fashion-mnist puts them.
    """

    title: ClassVar[str] = "Fashion-MNIST"
    inside: ClassVar[str] = "FashionMNIST/raw"  # where torchvision puts it
    source: ClassVar[str] = (
        "on Debian and Ubuntu, type: apt-get install dataset-fashion-mnist; elsewhere the four "
        "files are in https://github.com/zalandoresearch/fashion-mnist (data/fashion); put them "
        "into a folder and give it as --task.data"
    )
    mirrored: ClassVar[bool] = True
    target: ClassVar[float | None] = 0.85

    data: str = DEBIAN
