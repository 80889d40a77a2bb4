"""Which tests start processes under a launcher: they take turns, the others run beside them.

`pytest -n 2` gives one process all of the former, and the rest to whoever is free. Without `-n` the
marks only serve to choose: `-m "not launched"`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LAUNCHED = ("hosts", "mpi", "slurm")  # folders all of whose tests start ranks
_TAKES_A_LAUNCHER = re.compile(r"^\s*(import launching|from launching import)", re.MULTILINE)


def mark(items: list[pytest.Item]) -> None:
    """Mark the tests that start ranks, and put them first: they take longest."""
    for item in items:
        if launches(item.path):
            item.add_marker(pytest.mark.launched)
        if item.path.is_relative_to(HERE / "slurm"):
            item.add_marker(pytest.mark.slurm)
    items.sort(key=lambda item: not launches(item.path))


@cache
def launches(file: Path) -> bool:
    """Tell whether the tests of a file start ranks."""
    if file.relative_to(HERE).parts[0] in LAUNCHED or file.stem.endswith("_launched"):
        return True
    return _TAKES_A_LAUNCHER.search(file.read_text(encoding="utf-8")) is not None


def scope(nodeid: str) -> str:
    """Name what has to run in one process: all tests that start ranks, or a test by itself."""
    return "ranks" if launches(HERE.parent / nodeid.partition("::")[0]) else nodeid
