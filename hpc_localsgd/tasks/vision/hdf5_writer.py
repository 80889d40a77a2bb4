"""Writes the packed form of a tree of images; continues where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.vision.hdf5_reader import FORMAT, VERSION, check_format, lay_down, opened
from hpc_localsgd.tasks.vision.image_store import MOST_BYTES, SPLITS, Folder
from hpc_localsgd.trajectory import regular_file
from hpc_localsgd.trajectory.diskspace import flush, open_to_write, promise, write
from hpc_localsgd.trajectory.whole_file import put_whole

AT_ONCE_BYTES = 64 << 20  # written and flushed together: what a kill can cost
ENTRY_BYTES = 200  # of an image in the file's tables, or a bit more

Say = Callable[[int, int], None]  # bytes written so far, of so many


@dataclass(frozen=True)
class Listing:
    """Images to be packed.

    Attributes:
        folder: The tree.
        names: Split -> CLASS/.../FILE of every image.
        sizes: Split -> bytes of every image.
    """

    folder: Folder
    names: dict[str, list[str]]
    sizes: dict[str, np.ndarray]

    @property
    def total(self) -> int:
        """Bytes of all images."""
        return int(sum(sizes.sum() for sizes in self.sizes.values()))

    @property
    def empty(self) -> list[Path]:
        """Files in which there is nothing: copies that failed."""
        return [
            self.folder.path(split, int(i))
            for split, sizes in self.sizes.items()
            for i in np.flatnonzero(sizes == 0)
        ]

    @property
    def digest(self) -> str:
        """Digest of names, which hold the class, and sizes: equal wherever the tree lies."""
        parts = [
            f"{name} {size}"
            for split in SPLITS
            for name, size in zip(self.names[split], self.sizes[split], strict=True)
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def listed(root: Path) -> Listing:
    """Return the images below a folder.

    Raises:
        ConfigurationError: Folders are missing, the splits differ in their classes, or a file
            cannot be read.
    """
    folder = Folder(root)
    names, sizes = {}, {}
    for split, labels in folder.labels.items():
        names[split] = [_text(folder.inside(split, i), root) for i in range(len(labels))]
        sizes[split] = np.array([_size(folder.path(split, i)) for i in range(len(labels))])
    return Listing(folder, names, sizes)


def _text(name: str, root: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{name!r} below {root} is not in UTF-8, as names in HDF5 are: rename it"
        ) from error
    return name


def _size(path: Path) -> int:
    try:
        regular_file.check(path, MOST_BYTES)
        return path.stat().st_size
    except OSError as error:  # a link to nothing, or not to a file
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def pack(listing: Listing, out: Path, say: Say = lambda done, total: None) -> bool:
    """Write the packed file, or the rest of it; return False if it was complete already.

    Raises:
        ConfigurationError: The file is of other images, or an image changed or cannot be read.
    """
    if not out.exists():
        _begin(listing, out)
    elif _is_complete(listing, out):
        return False
    with open_to_write(out, "r+") as file:
        done = 0
        for split, name in SPLITS.items():
            begin = int(file[name]["packed"][()])
            done += int(listing.sizes[split][:begin].sum())
            for a, b in _portions(listing.sizes[split], begin):
                say(done, listing.total)
                _write(listing, split, file[name], a, b)
                flush(file)
                write(file[name]["packed"], (), b)  # only now: what it counts is on the disk
                flush(file)
                done += int(listing.sizes[split][a:b].sum())
        file.attrs["complete"] = True
    say(done, listing.total)
    return True


def _begin(listing: Listing, out: Path) -> None:
    """Make the structure of the file, under another name until it is whole."""
    entries = sum(map(len, listing.names.values()))
    with put_whole(out) as unborn:
        promise(unborn, ENTRY_BYTES * entries)  # HDF5 fails in its middle
        _lay_down(listing, unborn)
        if out.exists():
            raise ConfigurationError(f"another process has begun {out} meanwhile: wait for its end")


def _lay_down(listing: Listing, unborn: Path) -> None:
    with open_to_write(unborn, "w") as file:
        kept = []
        for split, name in SPLITS.items():
            labels = listing.folder.labels[split]
            kept += lay_down(file, name, listing.names[split], labels, listing.sizes[split])
        file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
        file.attrs["classes"] = json.dumps(listing.folder.classes)
        file.attrs["listing"], file.attrs["complete"] = listing.digest, False
        flush(file)
        del kept


def _is_complete(listing: Listing, out: Path) -> bool:
    with opened(out) as file:
        check_format(out, file)
        if file.attrs["listing"] != listing.digest:
            raise ConfigurationError(
                f"{out} was begun with other images than those in {listing.folder.root}: "
                "give another file, or remove it"
            )
        return bool(file.attrs["complete"])


def _portions(sizes: np.ndarray, begin: int) -> Iterator[tuple[int, int]]:
    """Yield consecutive images a..b of about `AT_ONCE_BYTES`."""
    a, held = begin, 0
    for i in range(begin, len(sizes)):
        held += int(sizes[i])
        if held >= AT_ONCE_BYTES or i == len(sizes) - 1:
            yield a, i + 1
            a, held = i + 1, 0


def _write(listing: Listing, split: str, group: h5py.Group, a: int, b: int) -> None:
    """Write images a..b of a split: their bytes and checksums."""
    contents = [_content(listing, split, i) for i in range(a, b)]
    crc = np.array([zlib.crc32(content) for content in contents], dtype=np.uint32)
    write(group["crc"], slice(a, b), crc)
    begin, end = int(group["offset"][a]), int(group["offset"][b])
    content = np.frombuffer(b"".join(contents), dtype=np.uint8)
    write(group["bytes"], slice(begin, end), content)


def _content(listing: Listing, split: str, i: int) -> bytes:
    path = listing.folder.path(split, i)
    try:
        content = regular_file.read(path, MOST_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) != listing.sizes[split][i]:
        raise ConfigurationError(f"{path} has changed while it was packed: start over")
    return content
