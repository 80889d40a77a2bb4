"""The files of CIFAR-10 and CIFAR-100, pickled for Python or binary, as they are published."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import regular_file

_PIXELS = 3 * 32 * 32
_MOST_BYTES = 1 << 29  # of a file; the largest that is published has 155 million
Images = tuple[np.ndarray, np.ndarray]  # uint8 [N, 3, 32, 32], int64 [N]


@dataclass(frozen=True)
class Published:
    """Form in which a data set is published.

    Attributes:
        name: CIFAR-10 or CIFAR-100.
        classes: Number of classes.
        url: Of the pickled form.
        pickled: Its folder.
        binary: The folder of the binary form.
        train: Files of the training set.
        test: Files of the test set.
        label: Key of the labels in the pickled form.
        label_bytes: Bytes before the pixels in the binary form; the last is the label.
        mean: Of the red, green and blue training pixels, in [0, 1].
        std: Their standard deviations.
    """

    name: str
    classes: int
    url: str
    pickled: str
    binary: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label: bytes
    label_bytes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def read(self, data: Path) -> dict[str, Images]:
        """Return the splits "train" and "test" from a folder, or from the one above it.

        Raises:
            ConfigurationError: A file is missing or damaged; the text names it, and says what to
                type where there is nothing at all.
        """
        for folder in (data / self.pickled, data / self.binary, data):
            for suffix, read in (("", self._pickle), (".bin", self._binary)):
                if (folder / (self.train[0] + suffix)).is_file():
                    names = {"train": self.train, "test": self.test}
                    return {
                        split: _joined([read(folder / (file + suffix)) for file in files])
                        for split, files in names.items()
                    }
        raise ConfigurationError(
            f"there is no {self.name} in --task.data {data} (looked for {self.pickled}/ and "
            f"{self.binary}/). Where there is internet, type: mkdir -p {data} && "
            f"curl -L {self.url} | tar xz -C {data}"
        )

    def _content(self, path: Path) -> bytes:
        try:
            return regular_file.read(path, _MOST_BYTES)
        except FileNotFoundError as error:
            raise ConfigurationError(f"{self.name}: {path} is missing") from error
        except OSError as error:
            raise ConfigurationError(f"{self.name}: {path}: {error.strerror}") from error

    def _pickle(self, path: Path) -> Images:
        raw = self._content(path)
        try:
            content = _OnlyArrays(io.BytesIO(raw), encoding="bytes").load()
            pixels = np.asarray(content[b"data"], dtype=np.uint8)
            labels = np.asarray(content[self.label], dtype=np.int64)
        except Exception as error:  # a damaged pickle can raise anything
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        return self._checked(path, pixels, labels)

    def _binary(self, path: Path) -> Images:
        content = np.frombuffer(self._content(path), dtype=np.uint8)
        row = self.label_bytes + _PIXELS
        if len(content) % row or not len(content):
            raise _damaged(path, f"{len(content)} bytes are not a multiple of {row}")
        rows = content.reshape(-1, row)
        labels = rows[:, self.label_bytes - 1].astype(np.int64)
        return self._checked(path, rows[:, self.label_bytes :], labels)

    def _checked(self, path: Path, pixels: np.ndarray, labels: np.ndarray) -> Images:
        if pixels.shape != (len(labels), _PIXELS) or not len(labels):
            raise _damaged(path, f"pixels {pixels.shape} for {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= self.classes:
            raise _damaged(path, f"a label {labels.max()}, where there are {self.classes} classes")
        return pixels.reshape(-1, 3, 32, 32), labels


CIFAR10 = Published(
    name="CIFAR-10",
    classes=10,
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    pickled="cifar-10-batches-py",
    binary="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test=("test_batch",),
    label=b"labels",
    label_bytes=1,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
CIFAR100 = Published(
    name="CIFAR-100",
    classes=100,
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    pickled="cifar-100-python",
    binary="cifar-100-binary",
    train=("train",),
    test=("test",),
    label=b"fine_labels",
    label_bytes=2,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


class _OnlyArrays(pickle.Unpickler):
    """Unpickler of containers and numpy arrays, which runs no other code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the two functions and two types that a pickled array needs.

        Raises:
            UnpicklingError: It is something else.
        """
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _joined(parts: list[Images]) -> Images:
    return np.concatenate([p for p, _ in parts]), np.concatenate([labels for _, labels in parts])


def _damaged(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path} is damaged ({why}): remove it and unpack it again")
