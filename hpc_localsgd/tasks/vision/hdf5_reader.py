"""The packed form: the encoded images of a data set in one HDF5 file.

    /               attrs: format, version, classes, listing (digest of what was packed), complete
    /train, /val
        bytes       uint8 [total]   the files one after another, unchanged
        offset      int64 [N + 1]   where each begins: image i is bytes[offset[i]:offset[i + 1]]
        label       int64 [N]
        name        str [N]         CLASS/.../FILE
        crc         uint32 [N]      CRC-32 of each image
        packed      int64 []        images written so far

A parallel file system likes one large file and not a million small ones. The structure is laid
down first, and from then on only written into: a kill at any moment leaves a file that can be
resumed. So `bytes` need not grow and is not chunked: it lies in one piece, and once
HDF5 has said where, an image is one plain read, without locks and some three times faster than
through the library. Every read compares the checksum.
"""

from __future__ import annotations

import json
import os
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_localsgd.errors import ConfigurationError, DataError
from hpc_localsgd.tasks.vision.image_store import SPLITS, ImageStore
from hpc_localsgd.tasks.vision.tree import is_junk
from hpc_localsgd.trajectory.vetting import why_strange

FORMAT, VERSION = "hpc_localsgd.images", 1
_DAMAGED = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)  # of h5py


class Pack(ImageStore):
    """A packed file, opened by every process for itself when it first reads."""

    def __init__(self, path: Path) -> None:
        """Read the index.

        Raises:
            ConfigurationError: Not a complete packed file.
        """
        self.path = path
        self._file: int | None = None
        with opened(path) as file:
            check_format(path, file)
            if not file.attrs["complete"]:
                raise ConfigurationError(
                    f"{path} is not complete ({written(file)} images so far): complete it by the "
                    "same `python -m hpc_localsgd pack` that began it"
                )
            self.classes = tuple(json.loads(file.attrs["classes"]))
            _check_no_junk(path, self.classes)
            groups = {split: file[name] for split, name in SPLITS.items()}
            self.labels = {split: g["label"][:] for split, g in groups.items()}
            self._offset = {split: g["offset"][:] for split, g in groups.items()}
            self._crc = {split: g["crc"][:] for split, g in groups.items()}
            self._place = {split: g["bytes"].id.get_offset() for split, g in groups.items()}
            if None in self._place.values():
                raise ConfigurationError(f"{path}: its images do not lie in one piece: pack again")
            for split, group in groups.items():
                self._check_places(split, group["bytes"].size)

    def _check_places(self, split: str, total: int) -> None:
        """Refuse images that begin or end outside of what is stored, before one is read."""
        offset, labels = self._offset[split], self.labels[split]
        sound = len(offset) == len(labels) + 1 == len(self._crc[split]) + 1 and (
            offset[0] == 0 and offset[-1] == total and bool((offset[1:] >= offset[:-1]).all())
        )
        if not sound or not ((labels >= 0) & (labels < len(self.classes))).all():
            raise ConfigurationError(
                f"{self.path}: the places or labels of its {SPLITS[split]} images contradict each "
                "other: it is damaged, pack again"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}  # an open file stays with its process

    def name(self, split: str, i: int) -> str:
        """Return the name of an image, see `ImageStore.name`."""
        try:
            with h5py.File(self.path, "r", locking=False) as file:
                said = file[SPLITS[split]]["name"].asstr()[i]
        except _DAMAGED:
            said = "?"
        return f"{self.path}: image {i} of {SPLITS[split]} ({said})"

    def encoded(self, split: str, i: int) -> bytes:
        """Return the bytes of an image, see `ImageStore.encoded`.

        Raises:
            DataError: They cannot be read, or are damaged.
        """
        begin, end = (int(place) for place in self._offset[split][i : i + 2])
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._file)
            content = os.pread(self._file, end - begin, self._place[split] + begin)
        except OSError as error:
            raise DataError(f"{self.name(split, i)} cannot be read: {error.strerror}") from error
        if len(content) != end - begin or zlib.crc32(content) != self._crc[split][i]:
            raise DataError(f"{self.name(split, i)} is damaged: its checksum is another")
        return content


def _check_no_junk(path: Path, classes: tuple[str, ...]) -> None:
    """Check for a hidden folder as a class, as in older files: labels would not be the tree's."""
    if junk := [name for name in classes if is_junk(name)]:
        raise ConfigurationError(
            f"{path} was packed by an older version with the folder {junk[0]} as a class: remove "
            "the file, and pack the images again"
        )


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a packed file for reading as long as the block lasts, without a lock.

    Raises:
        ConfigurationError: It cannot be opened, as one that is cut short, or is damaged.
    """
    with _opened(path) as file:
        try:
            yield file
        except (ConfigurationError, DataError):
            raise
        except _DAMAGED as error:
            raise ConfigurationError(
                f"{path} is damaged (HDF5 says: {str(error).splitlines()[0]}): copy it again, or "
                "remove it and pack again"
            ) from error


def _opened(path: Path) -> h5py.File:
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}")
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        size = path.stat().st_size
        raise ConfigurationError(
            f"{path} ({size} bytes) is truncated or no HDF5 file: {error}; copy or pack it again"
        ) from error


def check_format(path: Path, file: h5py.File) -> None:
    """Check that a file is a packed file of this package.

    Raises:
        ConfigurationError: It is not, it leads to other files or declares more than it can hold,
            or a newer version wrote it.
    """
    of = SPLITS.values()
    bytes_, names = (tuple(f"{group}/{name}" for group in of) for name in ("bytes", "name"))
    if why := why_strange(path, file, large=bytes_, texts=names):
        raise ConfigurationError(f"{path}: not a file of packed images of this package: {why}")
    if file.attrs.get("format") != FORMAT:
        raise ConfigurationError(
            f"{path} holds no packed images: make one with `python -m hpc_localsgd pack FOLDER "
            f"{path.name}`"
        )
    if file.attrs["version"] != VERSION:
        raise ConfigurationError(
            f"{path} is of version {file.attrs['version']}, this program reads version {VERSION}"
        )


def written(file: h5py.File) -> str:
    """Return how much of a file has been packed: "12 of 40"."""
    parts = [file[name] for name in SPLITS.values()]
    done, total = (sum(int(n) for n in ns) for ns in zip(*map(_progress, parts), strict=True))
    return f"{done} of {total}"


def _progress(group: h5py.Group) -> tuple[int, int]:
    return int(group["packed"][()]), len(group["label"])


def lay_down(
    file: h5py.File, group: str, names: list[str], labels: Any, sizes: Any
) -> list[h5py.Dataset]:
    """Make the structure of a split with all of its space: nothing is ever added to it.

    Returns:
        What was written to. Keep it until the file is flushed: of what cannot be written while
        HDF5 closes a dataset nobody is told.
    """
    made = file.create_group(group)
    n, total = len(names), int(np.sum(sizes))
    offset = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    written = [
        made.create_dataset("offset", data=offset),
        made.create_dataset("label", data=np.asarray(labels, dtype=np.int64)),
        made.create_dataset("name", data=names, dtype=h5py.string_dtype()),
        made.create_dataset("crc", data=np.zeros(n, dtype=np.uint32)),  # else it has no space yet
        made.create_dataset("packed", data=np.int64(0)),
    ]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((total,))
    h5py.h5d.create(made.id, b"bytes", h5py.h5t.NATIVE_UINT8, space, properties)
    return written
