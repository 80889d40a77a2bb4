"""Which tests start processes under a launcher: they run one after another, with the machine alone.

`make test` runs all others first, on two cores at once.
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
    """Mark the tests that start ranks."""
    for item in items:
        if launches(item.path):
            item.add_marker(pytest.mark.launched)
        if item.path.is_relative_to(HERE / "slurm"):
            item.add_marker(pytest.mark.slurm)


@cache
def launches(file: Path) -> bool:
    """Tell whether the tests of a file start ranks."""
    if file.relative_to(HERE).parts[0] in LAUNCHED or file.stem.endswith("_launched"):
        return True
    return _TAKES_A_LAUNCHER.search(file.read_text(encoding="utf-8")) is not None
