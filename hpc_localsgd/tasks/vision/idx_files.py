"""Files in the IDX format of MNIST, plain or gzipped: the numbers in them, and where they are."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.trajectory import regular_file

Images = tuple[np.ndarray, np.ndarray]  # uint8 [N, 1, height, width], int64 [N]

UNSIGNED_BYTES = 8  # the format's number for its type
SPLITS = {"train": ("train",), "test": ("t10k", "test")}  # and what files call them
MOST_BYTES = 2 << 30  # of a file, unpacked too: EMNIST's largest has 0.55 GB


def find(folders: list[Path], prefix: str) -> dict[str, tuple[Path, Path]] | None:
    """Find the images' and labels' file of both splits; return None if no folder has them all.

    Args:
        folders: Where to look, in order.
        prefix: In front of every name, as `emnist-letters-` is in EMNIST.
    """
    for folder in folders:
        found = {
            split: (
                _file(folder, prefix, names, "images-idx3"),
                _file(folder, prefix, names, "labels-idx1"),
            )
            for split, names in SPLITS.items()
        }
        whole = {
            split: (images, labels)
            for split, (images, labels) in found.items()
            if images is not None and labels is not None
        }
        if len(whole) == len(SPLITS):
            return whole
    return None


def prefixes(folders: list[Path]) -> list[str]:
    """Return what stands before `train-images` in these folders: EMNIST has six sets in one."""
    found = (path.name for folder in folders for path in folder.glob("*train-images*idx3-ubyte*"))
    return sorted({name.split("train-images")[0] for name in found})


def read(files: dict[str, tuple[Path, Path]]) -> dict[str, Images]:
    """Read images and labels of the splits; labels that begin at 1 are shifted to begin at 0.

    Raises:
        ConfigurationError: A file is damaged or does not fit the others; the text names it.
    """
    splits = {split: _pair(*paths) for split, paths in files.items()}
    shapes = {images.shape[1:] for images, _ in splits.values()}
    if len(shapes) > 1:
        raise ConfigurationError(f"images of the splits differ in size: {sorted(shapes)}")
    first = min(int(labels.min()) for _, labels in splits.values())
    if first == 1:  # EMNIST's letters
        return {split: (images, labels - 1) for split, (images, labels) in splits.items()}
    return splits


def numbers(path: Path, dimensions: int) -> np.ndarray:
    """Read one file: uint8 numbers in so many dimensions.

    Raises:
        ConfigurationError: It cannot be read, is damaged, or holds other data.
    """
    try:
        regular_file.check(path, MOST_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            shape = _shape(path, header, dimensions)
            wanted = int(np.prod(shape, dtype=object))
            content = file.read(min(wanted, MOST_BYTES) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if len(content) != wanted:
        has = f"more than {wanted}" if len(content) > wanted else str(len(content))
        raise _damaged(path, f"{has} numbers, where its header says {wanted}")
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)


def _file(folder: Path, prefix: str, names: tuple[str, ...], kind: str) -> Path | None:
    candidates = _candidates(folder, prefix, names, kind)
    return next((path for path in candidates if path.exists()), None)


def _candidates(folder: Path, prefix: str, names: tuple[str, ...], kind: str) -> Iterator[Path]:
    """Yield the names in use: train-images-idx3-ubyte, train-images.idx3-ubyte, gzipped or not."""
    what, format = kind.split("-")
    for name in names:
        for point in "-.":
            for ending in ("", ".gz"):
                yield folder / f"{prefix}{name}-{what}{point}{format}-ubyte{ending}"


def _pair(images_file: Path, labels_file: Path) -> Images:
    images, labels = numbers(images_file, 3), numbers(labels_file, 1)
    if len(images) != len(labels) or not images.size:
        raise ConfigurationError(
            f"{images_file} holds {len(images)} images of {images.shape[1]}x{images.shape[2]} and "
            f"{labels_file.name} {len(labels)} labels: they do not belong together"
        )
    return images[:, None], labels.astype(np.int64)


def _shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    if len(header) < 4 + 4 * dimensions or header[:2] != b"\0\0":
        raise _damaged(path, "it does not begin as an IDX file does")
    kind, found = header[2], header[3]
    if kind != UNSIGNED_BYTES or found != dimensions:
        raise ConfigurationError(
            f"{path} holds numbers of type {kind:#x} in {found} dimensions, where bytes "
            f"({UNSIGNED_BYTES:#x}) in {dimensions} are wanted"
        )
    return struct.unpack(f">{dimensions}I", header[4:])


def _damaged(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path} is damaged ({why}): fetch it again")
