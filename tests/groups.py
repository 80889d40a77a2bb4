"""Which tests start processes under a launcher: they take turns, the others run beside them.

`pytest -n 2 --dist loadgroup` gives one process the group of the former, and the rest to whoever is
free. Without `-n` the marks only serve to choose: `-m "not launched"`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
LAUNCHED = ("hosts", "mpi", "slurm")  # folders all of whose tests start ranks
SLURM = ("slurm",)
LAUNCHERS = {"mpirun", "horovodrun", "torchrun"}  # fixtures


def mark(items: list[pytest.Item]) -> None:
    """Mark the tests that start ranks, and put them first: they are the longest."""
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        if folder in SLURM:
            item.add_marker(pytest.mark.slurm)
        if folder in LAUNCHED or launches(item):
            item.add_marker(pytest.mark.launched)
            item.add_marker(pytest.mark.xdist_group("ranks"))
    items.sort(key=lambda item: item.get_closest_marker("launched") is None)


def launches(item: pytest.Item) -> bool:
    """Tell whether a test asks for a launcher, or its module takes one from `launching`."""
    if LAUNCHERS & set(getattr(item, "fixturenames", ())):
        return True
    names = vars(getattr(item, "module", None) or object).values()
    return any(
        getattr(thing, "__name__", "") == "launching"
        or getattr(thing, "__module__", "") == "launching"
        for thing in names
    )
