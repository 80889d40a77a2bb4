"""One shard on the disk: what `torch.save` writes, followed by its SHA-256."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from hpc_localsgd.run.checkpoint.older_shards import today
from hpc_localsgd.trajectory.whole_file import sync

_DIGEST_BYTES = 32


class DamagedShard(RuntimeError):
    """A shard is damaged; the message says which file."""


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a state to disk, whole or not at all.

    Args:
        path: The shard; replaced if it is there.
        state: Tensors and plain values.

    Raises:
        OSError: The disk is full, or cannot be written; what was there before still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{threading.get_ident()}.partial")
    try:
        with partial.open("wb") as file:
            hashing = _Hashing(file)
            try:
                torch.save(state, cast(BinaryIO, hashing))
            except RuntimeError as error:  # torch hides the reason of a failed write
                raise hashing.failed or error from error
            file.write(hashing.digest.digest())
            file.flush()
            sync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> Any:
    """Return the state of a shard, on the CPU.

    Raises:
        DamagedShard: It is missing, cut short or changed.
        OSError: It could not be read, which may pass: nothing is wrong with it as far as we know.
    """
    if path.exists() and not path.is_file():
        raise DamagedShard(f"{path} is not a file")  # a pipe would be waited for
    try:
        raw = memoryview(path.read_bytes())
    except FileNotFoundError as error:
        raise DamagedShard(f"{path} is not there") from error
    body, digest = raw[:-_DIGEST_BYTES], raw[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedShard(f"{path} is damaged: its checksum is not that of what was written")
    try:  # tensors and plain values alone: nothing that a file names is ever called
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # a checksum says nothing of who wrote it, and pickle says anything
        raise DamagedShard(f"{path} holds more than tensors and plain values") from error
    return _checked(path, state)


def _checked(path: Path, state: Any) -> dict[str, Any]:
    """Return the state, checked to have at least its position and its workers' rows.

    Raises:
        DamagedShard: It has not.
    """
    where = state.get("place") if isinstance(state, dict) else None
    rows = state.get("x") if isinstance(state, dict) else None
    counted = isinstance(where, dict) and type(where.get("t")) is int
    if not counted or type(state.get("after")) is not int:
        raise DamagedShard(f"{path} does not say which place in a run it is")
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2:
        raise DamagedShard(f"{path} holds no rows of parameters")
    return today(dict(state))


class _Hashing:
    """A file to write to that keeps the digest, and the reason of a failed write."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()
        self.failed: OSError | None = None

    def write(self, chunk: Any) -> int:
        self.digest.update(chunk)
        try:
            return self._file.write(chunk)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        self._file.flush()
