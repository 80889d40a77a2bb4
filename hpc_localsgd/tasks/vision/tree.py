"""The image files of a tree of class folders: which names are images, and of which class.

Files left by operating systems and tools are neither: names that begin with a dot
(`.ipynb_checkpoints`, `.DS_Store`, a Mac's `._photo.jpg`) and the folders in `JUNK`. One of them
taken for a class would move the label of every class after it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hpc_localsgd.errors import ConfigurationError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
JUNK = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
Identity = tuple[int, int]  # of a folder: its device and inode
Walked = list[tuple[str, list[str]]]  # folders and the files of each, as torchvision orders them


@dataclass(frozen=True)
class Tree:
    """The images of one split.

    Attributes:
        paths: CLASS/.../FILE of every image, in the order of torchvision's ImageFolder.
        left_out: Files and folders that are neither image nor class, each relative to the split.
    """

    paths: list[str]
    left_out: list[str]


def list_tree(folder: Path) -> Tree:
    """List the images of the class folders in `folder`.

    Raises:
        ConfigurationError: There is no such folder, a class folder is missing or holds no image,
            a link leads back to a folder above it, or something cannot be listed or read.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"there is no folder {folder}: images are expected in train/CLASS/*.jpg and "
            "val/CLASS/*.jpg; --task.data may also be a file made of them by `python -m "
            "hpc_localsgd pack`"
        )
    left_out: list[str] = []
    classes, beside = _entries(str(folder), "", left_out)
    left_out += beside
    if not classes:
        loose = sum(map(_is_image, beside))
        raise ConfigurationError(
            f"{folder} has no class folders ({loose} images lie in it directly): give every class "
            "a folder of its own, and move its images there"
        )
    paths: list[str] = []
    for name in classes:
        paths += _of_class(folder, name, left_out)
    return Tree(paths, sorted(left_out))


def _of_class(folder: Path, name: str, left_out: list[str]) -> list[str]:
    """Return the images of a class, those in its sub-folders included."""
    walked: Walked = []
    real = folder.resolve()
    above = tuple(_identity(path) for path in (real, *real.parents))
    _walk(str(folder), name, above, walked, left_out)
    files = [f"{inside}/{file}" for inside, names in sorted(walked) for file in sorted(names)]
    images = [file for file in files if _is_image(file)]
    if not images:
        seen = f"{len(files)} other files, such as {files[0]}" if files else "nothing else either"
        raise ConfigurationError(
            f"the class folder {folder / name} holds no image ({', '.join(SUFFIXES)}; {seen}): "
            "remove the folder, or add the images"
        )
    left_out += [file for file in files if not _is_image(file)]
    return images


def is_junk(name: str) -> bool:
    """Return whether a file or folder of this name is left out, and everything in it."""
    return name.startswith(".") or name in JUNK


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _walk(
    root: str,
    inside: str,
    above: tuple[Identity, ...],
    walked: Walked,
    left_out: list[str],
) -> None:
    """Append `inside` and all folders below it; links are followed."""
    path = os.path.join(root, inside)
    here = _identity(path)
    if here in above:
        raise ConfigurationError(
            f"{path} is a link to a folder that it lies in, and would be listed for ever: remove it"
        )
    folders, files = _entries(root, inside, left_out)
    walked.append((inside, files))
    for name in folders:
        _walk(root, f"{inside}/{name}", (*above, here), walked, left_out)


def _identity(folder: str | Path) -> Identity:
    try:
        found = os.stat(folder)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be listed: {error.strerror}") from error
    return found.st_dev, found.st_ino


def _entries(root: str, inside: str, left_out: list[str]) -> tuple[list[str], list[str]]:
    """Return the sorted names of folders and files in a folder, without system files."""
    folders, files = [], []
    path = os.path.join(root, inside)
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if is_junk(entry.name):
                    left_out.append(f"{inside}/{entry.name}" if inside else entry.name)
                elif entry.is_dir():
                    folders.append(entry.name)
                else:
                    _refuse_what_is_no_file(entry)
                    files.append(entry.name)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be listed: {error.strerror}") from error
    return sorted(folders), sorted(files)


def _refuse_what_is_no_file(entry: os.DirEntry[str]) -> None:
    """Refuse a pipe named like an image, or a link to one; broken links fail when read."""
    if _is_image(entry.name) and not entry.is_file() and os.path.exists(entry.path):
        raise ConfigurationError(
            f"{entry.path} is neither a file nor a folder (a pipe or a device): remove it"
        )
