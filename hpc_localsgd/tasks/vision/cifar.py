"""What CIFAR-10 and CIFAR-100 have in common: 60000 real images of 32x32 pixels, from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hpc_localsgd.tasks.base import TaskContext, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.synthetic_images import like
from hpc_localsgd.tasks.vision.cifar_files import Published
from hpc_localsgd.tasks.vision.image_task import ImageTask
from hpc_localsgd.tasks.vision.in_memory import InMemory

FRAME = 4  # pixels around an image, out of which it is cropped at random


@dataclass(frozen=True)
class CifarTask(ImageTask):
    """CIFAR (Krizhevsky 2009); augmented by a random crop out of a frame of 4, and a flip.

    Attributes:
        data: Folder with the published files, pickled or binary. Nothing is downloaded.
    """

    files: ClassVar[Published]

    data: str = "data"

    def build(self, context: TaskContext) -> Classification:
        """Read the files, and make the task of this process's workers.

        Raises:
            ConfigurationError: Files are missing or damaged, with the command that fetches them.
        """
        files, frame = self.files, FRAME if self.augment else None
        splits = files.read(Path(self.data).expanduser())
        samples = InMemory(splits, files.classes, context, files.mean, files.std, frame)
        return self.classification(samples, 32, context)

    def published(self) -> TaskSpec:
        """Return synthetic images, as many and as large."""
        return like(self, size=32, classes=self.files.classes, samples=50_000)
