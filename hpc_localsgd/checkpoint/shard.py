"""One shard on the disk: what `torch.save` writes, and behind it the SHA-256 of that."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

_DIGEST_BYTES = 32


class DamagedShard(RuntimeError):
    """A shard that is not what was written: says which file."""


def write(path: Path, state: dict[str, Any]) -> None:
    """Bring a state to the disk, whole or not at all.

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
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> Any:
    """The state of a shard, on the CPU.

    Raises:
        DamagedShard: It is missing, cut short or changed.
        OSError: It could not be read, which may pass: nothing is wrong with it as far as we know.
    """
    try:
        raw = memoryview(path.read_bytes())
    except FileNotFoundError as error:
        raise DamagedShard(f"{path} is not there") from error
    body, digest = raw[:-_DIGEST_BYTES], raw[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise DamagedShard(f"{path} is damaged: its checksum is not that of what was written")
    return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)


class _Hashing:
    """A file to write to, which remembers the digest, and why a write failed."""

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
