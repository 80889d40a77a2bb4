"""Grey images in the IDX format: EMNIST, or any set that comes in MNIST's four files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.synthetic_images import like
from hpc_localsgd.tasks.vision import idx_files
from hpc_localsgd.tasks.vision.image_task import ImageTask
from hpc_localsgd.tasks.vision.in_memory import InMemory
from hpc_localsgd.tasks.vision.norms import Norm

FRAME = 2  # pixels around an image, out of which it is cropped at random


@dataclass(frozen=True)
class idx_images(ImageTask):
    """Grey images and labels from four IDX files; their classes are counted in the labels.

    Augmented, where that is asked for, by a random crop out of a frame of 2 pixels.

    Attributes:
        model: cnn32, mlp512, resnet8, ...; see `ImageTask`.
        norm: See `ImageTask`.
        augment: Whether training images are varied at random.
        data: Folder with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte
            and t10k-labels-idx1-ubyte, gzipped or not. Nothing is downloaded.
        prefix: What stands in front of these names: emnist-balanced- for one of EMNIST's sets.
        subset: Training images used, equally many of each class as far as there are; the same for
            every seed. 0 for all.
    """

    title: ClassVar[str] = "data set in the IDX format"
    inside: ClassVar[str] = "raw"  # a folder below --task.data where it may be, too
    source: ClassVar[str] = "give the folder that holds them"
    mirrored: ClassVar[bool] = False  # whether a mirror image is still of its class

    model: str = "cnn32"
    norm: Norm = "group"
    augment: bool = False
    data: str = "data"
    prefix: str = ""
    subset: int = 0

    def build(self, context: TaskContext) -> Classification:
        """Read the files, and make the task of this process's workers.

        Raises:
            ConfigurationError: Files are missing or damaged, with where to get them.
        """
        splits = idx_files.read(self._files())
        pixels = splits["train"][0]
        mean, std = float(pixels.mean()) / 255, float(pixels.std()) / 255
        if not std:
            raise ConfigurationError(f"--task.data {self.data}: all pixels are equal")
        splits["train"] = self._part(*splits["train"])
        classes = 1 + max(int(labels.max()) for _, labels in splits.values())
        frame = FRAME if self.augment else None
        samples = InMemory(splits, classes, context, (mean,), (std,), frame, mirrored=self.mirrored)
        return self.classification(samples, _side(pixels), context, channels=1)

    def published(self) -> TaskSpec:
        """Return synthetic images as many and as large as MNIST's."""
        return like(self, size=28, classes=10, samples=self.subset or 60_000, channels=1)

    def _files(self) -> dict[str, tuple[Path, Path]]:
        data = Path(self.data).expanduser()
        folders = [data, data / self.inside]
        files = idx_files.find(folders, self.prefix)
        if files:
            return files
        known = [repr(p) for p in idx_files.prefixes(folders) if p != self.prefix]
        if known:
            raise ConfigurationError(
                f"--task.prefix {self.prefix!r}: --task.data {data} has these: {', '.join(known)}"
            )
        raise ConfigurationError(
            f"there is no {self.title} in --task.data {data} (looked for train-images-idx3-ubyte, "
            f"its labels, and t10k-, there and in {self.inside}/, gzipped or not): {self.source}"
        )

    def _part(self, images: np.ndarray, labels: np.ndarray) -> idx_files.Images:
        """Take the subset: class by class in turn, in a fixed random order."""
        if not 0 <= self.subset <= len(labels):
            raise ConfigurationError(
                f"--task.subset {self.subset}: 0 for all, or at most {len(labels)}"
            )
        if not self.subset:
            return images, labels
        order = np.random.default_rng(0).permutation(len(labels))
        turn = np.empty(len(labels), dtype=int)  # how many of its class come before an image
        for label in np.unique(labels):
            mine = order[labels[order] == label]
            turn[mine] = np.arange(len(mine))
        chosen = order[np.argsort(turn[order], kind="stable")][: self.subset]
        return images[chosen], labels[chosen]


def _side(images: np.ndarray) -> int:
    height, width = images.shape[2:]
    if height != width:
        raise ConfigurationError(f"images of {height}x{width} pixels: only square ones are taken")
    return int(height)
