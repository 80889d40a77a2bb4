"""Remember what an environment was built from, so that a second call has nothing to do.

A stamp is a small JSON file inside the environment: a flat table of names and texts. It is
written after the work it vouches for, by an atomic rename, so an interrupted build leaves the old
stamp or none. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path


def read(path: Path) -> dict[str, str]:
    """Return the stamp, empty when there is none or it cannot be read."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def write(path: Path, table: Mapping[str, str]) -> None:
    """Write the stamp in one step: a reader sees the old one or the new one."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(dict(table), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(draft, path)


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names whose values differ, sorted: why a rebuild is due, for the log."""
    return sorted(name for name in {*then, *now} if then.get(name) != now.get(name))


def digest(paths: Iterable[Path]) -> str:
    """Return one hash over the contents of the files, in the order given."""
    sha = hashlib.sha256()
    for path in paths:
        sha.update(path.read_bytes() + b"\0")
    return sha.hexdigest()[:16]
