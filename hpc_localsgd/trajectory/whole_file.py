"""Put a file into its place when it is complete: a job that is killed leaves the one before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def put_whole(path: Path) -> Iterator[Path]:
    """Write a file under another name, and then give it its own; nothing is left if that fails.

    Args:
        path: Of the file; what is there is replaced.

    Yields:
        The name to write to, in the same folder.
    """
    unborn = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield unborn
        os.replace(unborn, path)
    finally:
        unborn.unlink(missing_ok=True)
