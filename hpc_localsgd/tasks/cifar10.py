"""CIFAR-10: 60000 real images of 32x32 pixels in 10 classes, read from files on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpc_localsgd.tasks.base import Setting, TaskSpec
from hpc_localsgd.tasks.classification import Classification
from hpc_localsgd.tasks.vision.cifar_files import CIFAR10
from hpc_localsgd.tasks.vision.in_memory import InMemory
from hpc_localsgd.tasks.vision.spec import ImageTask

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class cifar10(ImageTask):
    """CIFAR-10 (Krizhevsky 2009); augmented by a random crop out of a frame of 4, and a flip.

    Attributes:
        data: Folder with the published files, pickled or binary. Nothing is downloaded.
    """

    data: str = "data"

    def build(self, setting: Setting) -> Classification:
        """Read the files, and make the task of this process's workers.

        Raises:
            ConfigurationError: Files are missing or damaged, with the command that fetches them.
        """
        splits = CIFAR10.read(Path(self.data).expanduser())
        pad = 4 if self.augment else None
        samples = InMemory(splits, CIFAR10.classes, setting, MEAN, STD, pad)
        return self.classification(samples, 32, setting)

    def published(self) -> TaskSpec:
        """Synthetic images, as many and as large."""
        return self.synthetic(size=32, classes=10, samples=50_000)
