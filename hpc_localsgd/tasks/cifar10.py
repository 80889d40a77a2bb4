"""CIFAR-10: 60000 real images of 32x32 pixels in 10 classes, read from files on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hpc_localsgd.tasks.vision.cifar import CifarTask
from hpc_localsgd.tasks.vision.cifar_files import CIFAR10, Published


@dataclass(frozen=True)
class cifar10(CifarTask):
    """CIFAR-10 (Krizhevsky 2009); augmented by a random crop out of a frame of 4, and a flip."""

    files: ClassVar[Published] = CIFAR10
