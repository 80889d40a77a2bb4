"""What an HDF5 file must be before it is read: whole, of numbers, and no larger than it says.

HDF5 lets a file point into other files, declare sizes it does not have, and name things so that a
path leads elsewhere. A record of ours does none of this. Looking takes no memory to speak of.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpc_localsgd.trajectory.safe_text import MOST_BYTES, readable
from hpc_localsgd.trajectory.schema import ROUND_COLUMNS, TrajectoryError, check_series_name

MOST_OBJECTS = 20_000
SPARE_BYTES = 64 << 20  # what a killed job may have made room for, beside what it wrote
PACKED = 64  # bytes that one byte of a file may stand for
_TEXTS = b"GCOL\1\0\0\0"  # where HDF5 keeps texts; those of a record begin in its first part
_LOOKED_AT_BYTES = 1 << 20
_VETTED: dict[Path, tuple[int, ...]] = {}  # which are opened for every series


def vet(path: Path, file: h5py.File) -> None:
    """Refuse a file that is not what it claims to be.

    Args:
        path: Of the file, for the message.
        file: Open, nothing of it read.

    Raises:
        TrajectoryError: It leads to other files, or declares more than it can hold.
    """
    stat = os.stat(path)
    now = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if _VETTED.get(path) == now:
        return
    try:
        _check_texts(path)
        names = _names(file)
        budget = SPARE_BYTES + PACKED * stat.st_size
        _check_attrs(file)
        for name in names:
            item = file[name]
            _check_attrs(item)
            if isinstance(item, h5py.Dataset):
                budget -= _bytes_of(name, item)
                if budget < 0:
                    raise _Strange(f"{_shown(name)} declares more numbers than the file can hold")
            elif not isinstance(item, h5py.Group):
                raise _Strange(f"{_shown(name)} is neither a group nor an array")
        _check_tables(file)
    except _Strange as said:
        raise TrajectoryError(f"{path}: not a record of this package: {said}.") from said
    _VETTED[path] = now


def why_strange(path: Path, file: h5py.File, large: tuple[str, ...], texts: tuple[str, ...]) -> str:
    """Say what a file has that none of this package has; return "" where it is sound.

    Args:
        path: Of the file, whose size bounds what its arrays may declare.
        file: Open, nothing of it read.
        large: Arrays that are never read as a whole.
        texts: Arrays of texts, which are read one by one.
    """
    budget = SPARE_BYTES + PACKED * os.stat(path).st_size
    try:
        _check_texts(path)
        names = _names(file)
        _check_attrs(file)
        for name in names:
            item = file[name]
            _check_attrs(item)
            if isinstance(item, h5py.Dataset):
                _check_inside(name, item)
                if name not in (*large, *texts):
                    budget -= _bytes_of(name, item)
                if budget < 0:
                    raise _Strange(f"{_shown(name)} declares more numbers than the file can hold")
    except _Strange as said:
        return str(said)
    return ""


class _Strange(Exception):
    """Content that no record has; the message says what, as the second half of a sentence."""


def _check_texts(path: Path) -> None:
    """Refuse zeros among the texts, as a host that went down may leave: HDF5 never ends there."""
    with path.open("rb") as stream:
        begin = stream.read(_LOOKED_AT_BYTES)
    at = begin.find(_TEXTS)
    while at >= 0:
        here, end = at + 16, min(at + _number(begin, at + 8, 8), len(begin))
        while here + 16 <= end:
            used, nbytes = _number(begin, here, 2), _number(begin, here + 8, 8)
            if not used and not nbytes:
                raise _Strange("it is damaged, its texts are zeros: copy it again")
            here += 16 + -(-nbytes // 8) * 8 if used else nbytes
        at = begin.find(_TEXTS, at + 1)


def _number(raw: bytes, at: int, nbytes: int) -> int:
    return int.from_bytes(raw[at : at + nbytes], "little")


def _names(file: h5py.File) -> list[str]:
    """Return everything in the file, found without following a link out of it."""
    found: list[str] = []
    wrong: list[str] = []

    def look(name: bytes, info: Any) -> bool | None:
        text = name.decode("utf-8", "surrogateescape")
        if info.type != h5py.h5l.TYPE_HARD:
            wrong.append(f"{_shown(text)} is a link to another place or file")
        elif any(part in ("", ".", "..") for part in text.split("/")):
            wrong.append(f"{_shown(text)} is a name that leads elsewhere")
        elif len(found) >= MOST_OBJECTS:
            wrong.append(f"it holds more than {MOST_OBJECTS:,} objects")
        found.append(text)
        return True if wrong else None

    file.id.links.visit(look, info=True)
    if wrong:
        raise _Strange(wrong[0])
    return found


def _check_attrs(item: Any) -> None:
    """Check that attributes are single numbers and texts of bounded length."""
    if len(item.attrs) > 1000:
        raise _Strange(f"{_shown(item.name)} has {len(item.attrs):,} attributes")
    for name in item.attrs:
        attr = item.attrs.get_id(name)
        text = h5py.check_string_dtype(attr.dtype) is not None
        if attr.shape != () or not (text or attr.dtype.kind in "iufbSU"):
            raise _Strange(f"its attribute {_shown(name)} is neither a number nor a text")
        if attr.dtype.itemsize > MOST_BYTES:
            raise _Strange(f"its attribute {_shown(name)} is too long")


def _check_inside(name: str, item: h5py.Dataset) -> None:
    """Refuse an array whose content another file has."""
    made = item.id.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise _Strange(f"the numbers of {_shown(name)} lie in another file")


def _bytes_of(name: str, item: h5py.Dataset) -> int:
    """Return the bytes that reading an array takes; 0 for parameters, read a row at a time."""
    _check_inside(name, item)
    if item.shape is None or item.dtype.kind not in "iufb" or item.dtype.itemsize > 8:
        raise _Strange(f"{_shown(name)} is not an array of numbers")
    if name in ("snapshots/mean", "snapshots/workers"):
        return 0
    chunk = math.prod(item.chunks) if item.chunks and math.prod(item.shape) else 0
    return max(math.prod(item.shape), chunk) * item.dtype.itemsize


def check_row(path: Path, item: h5py.Dataset) -> None:
    """Refuse parameters of which a row is larger than all that is stored of them.

    Raises:
        TrajectoryError: It is.
    """
    row = math.prod(item.shape[1:])
    chunk = math.prod(item.chunks) if item.chunks else 0
    if max(row, chunk) * item.dtype.itemsize > SPARE_BYTES + PACKED * item.id.get_storage_size():
        raise TrajectoryError(
            f"{path}: a snapshot of it would have {row:,} numbers, and the file has not as "
            "many: it is damaged, or not a record of this package."
        )


def _check_tables(file: h5py.File) -> None:
    """Check that the tables of a trajectory have the ranks and dtypes of `schema`."""
    rounds = file.get("rounds")
    for column in ROUND_COLUMNS if isinstance(rounds, h5py.Group) else ():
        if column.name in rounds:
            kind = np.dtype(column.dtype).kind
            _check_array(rounds, column.name, 1 + column.per_worker, kind)
    series = file.get("series")
    if isinstance(series, h5py.Group):
        series.visititems(_check_series)
    snapshots = file.get("snapshots")
    if isinstance(snapshots, h5py.Group):
        for name, rank in (("step", 1), ("mean", 2), ("workers", 3)):
            if name in snapshots:
                _check_array(snapshots, name, rank, "i" if name == "step" else "fu")


def _check_series(name: str, item: Any) -> None:
    if not isinstance(item, h5py.Group) or not {"step", "value"} <= set(item):
        return
    try:
        check_series_name(name)
    except TrajectoryError as error:
        raise _Strange(readable(str(error)).rstrip(".")) from error
    _check_array(item, "step", 1, "i")
    _check_array(item, "value", 1 + len(str(item.attrs.get("dims", "")).split()), "f")


def _check_array(group: h5py.Group, name: str, rank: int, kinds: str) -> None:
    item = group[name]
    if not isinstance(item, h5py.Dataset) or item.ndim != rank or item.dtype.kind not in kinds:
        path = _shown(f"{group.name}/{name}")
        raise _Strange(f"{path} is not an array with {rank} axes of the numbers that belong there")


def _shown(name: str) -> str:
    return readable(str(name))[:80]
