"""Encoded images on disk: an ImageFolder tree, or one packed file. Read by number."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpc_localsgd.errors import ConfigurationError, DataError
from hpc_localsgd.tasks.vision.pixels import decode
from hpc_localsgd.tasks.vision.tree import list_tree
from hpc_localsgd.trajectory import regular_file

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 1 << 31  # of an image, encoded
SPLITS = {"train": "train", "test": "val"}  # ours -> the name of its folder


class ImageStore(ABC):
    """Two splits, "train" and "test", of encoded images. May be sent to other processes.

    Attributes:
        classes: Names of the classes; labels are their numbers.
        labels: Split -> int64 [N].
    """

    classes: tuple[str, ...]
    labels: dict[str, np.ndarray]

    @abstractmethod
    def name(self, split: str, i: int) -> str:
        """Return the name of image i in messages: its file, and its place in it."""

    @abstractmethod
    def encoded(self, split: str, i: int) -> bytes:
        """Return the bytes of image i, as its file holds them.

        Raises:
            DataError: They cannot be read, or are not those that were stored.
        """

    def image(self, split: str, i: int) -> Image:
        """Return image i decoded to RGB, see `pixels`.

        Raises:
            DataError: It cannot be read or decoded; the text names it.
        """
        from PIL import UnidentifiedImageError

        content = self.encoded(split, i)
        try:
            return decode(content)
        except UnidentifiedImageError as error:
            raise DataError(f"{self.name(split, i)} is not an image that PIL can read") from error
        except Exception as error:  # PIL's readers raise what they like
            raise DataError(f"{self.name(split, i)} is not a readable image: {error}") from error


class Folder(ImageStore):
    """`train/CLASS/*.jpg` and `val/CLASS/*.jpg`, as torchvision's ImageFolder reads them.

    Attributes:
        left_out: What lies there and is neither image nor class, relative to `root`.
    """

    def __init__(self, root: Path) -> None:
        """List the files.

        Raises:
            ConfigurationError: A folder is missing or empty, or the splits differ in their classes.
        """
        self.root = root
        trees = {split: list_tree(root / name) for split, name in SPLITS.items()}
        names = {
            split: sorted({path.split("/")[0] for path in tree.paths})
            for split, tree in trees.items()
        }
        _check_same_classes(root, names)
        self.classes = tuple(names["train"])
        self.left_out = [
            f"{SPLITS[split]}/{name}" for split, tree in trees.items() for name in tree.left_out
        ]
        number = {name: i for i, name in enumerate(self.classes)}
        self.labels = {
            split: np.array([number[path.split("/")[0]] for path in tree.paths])
            for split, tree in trees.items()
        }
        # One array of bytes instead of a million strings: it is sent to every loader process.
        self._paths = {
            split: np.array([os.fsencode(path) for path in tree.paths])
            for split, tree in trees.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "left_out": []}  # of no use to a loader process

    def inside(self, split: str, i: int) -> str:
        """Return CLASS/.../FILE of image i."""
        return os.fsdecode(self._paths[split][i])

    def path(self, split: str, i: int) -> Path:
        """Return the file of image i."""
        return self.root / SPLITS[split] / self.inside(split, i)

    def name(self, split: str, i: int) -> str:
        """Return the name of an image, see `ImageStore.name`."""
        return str(self.path(split, i))

    def encoded(self, split: str, i: int) -> bytes:
        """Return the bytes of an image, see `ImageStore.encoded`.

        Raises:
            DataError: They cannot be read.
        """
        try:
            return regular_file.read(self.path(split, i), MOST_BYTES)
        except OSError as error:
            raise DataError(f"{self.name(split, i)} cannot be read: {error.strerror}") from error


def _check_same_classes(root: Path, names: dict[str, list[str]]) -> None:
    for split, other in (("train", "test"), ("test", "train")):
        if missing := sorted(set(names[other]) - set(names[split])):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ConfigurationError(
                f"the class folder {root / SPLITS[split] / missing[0]}{more} is missing: "
                f"{root / SPLITS[other]} has it"
            )


def check_classes(found: tuple[str, ...], expected: int | None, where: Path) -> None:
    """Check that there are as many classes as expected.

    Raises:
        ConfigurationError: There are not.
    """
    if expected is not None and len(found) != expected:
        raise ConfigurationError(
            f"{where} has {len(found)} classes and {expected} are expected: "
            f"--task.classes {len(found)} if it is what you want, else look for missing folders"
        )
