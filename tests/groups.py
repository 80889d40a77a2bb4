"""Which tests start ranks, and which of them must run in one process, one after another.

`make test` runs the tests that start no ranks first. Then come those that do, on two workers, a
group of them at a time: they mostly wait, for a Slurm, for a launcher, for a rank that is killed.
A test that starts ranks says so with `@pytest.mark.launched`; `launching` refuses to serve one that
does not. Tests of one group share their fixtures: a launch, a Slurm, hosts.
"""

from __future__ import annotations

from pathlib import Path

import launching
import pytest
import slow
from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).parent
LAUNCHED = ("hosts", "mpi")  # folders all of whose tests start ranks
CLUSTERS = {"cluster", "slurm"}  # fixtures that are a Slurm
RECIPES = ("test_recipes.py", "test_recipes_tried_out.py")
# Groups that take longest begin first, so that no worker is left alone with one at the end.
FIRST = ("slurm", "hosts", "test_stopping", "test_recipes_tried_out", "test_sharpness_of_ranks")


def mark(items: list[pytest.Item]) -> None:
    """Mark the tests that start ranks, use a Slurm, run recipes, or are slow; make groups.

    Those that start ranks come last, the longest groups of them first.
    """
    for item in items:
        if item.path.relative_to(HERE).parts[0] in LAUNCHED:
            item.add_marker(pytest.mark.launched)
        if CLUSTERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.launched)
            item.add_marker(pytest.mark.slurm)
        if item.path.name in RECIPES:
            item.add_marker(pytest.mark.recipe)
        if not item.get_closest_marker("launched") and is_slow(item):
            item.add_marker(pytest.mark.slow)
    items.sort(key=place)


def group(test: str) -> str:
    """Return the name of those a test shares its fixtures with: a folder, or its own file.

    Args:
        test: Its address, `tests/hosts/test_link_down.py::test_...`.
    """
    folder, file = test.partition("::")[0].split("/")[-2:]
    return folder if folder in ("hosts", "slurm") else file.removesuffix(".py")


class ByGroup(LoadScopeScheduling):
    """Gives all tests of a group to one worker, as xdist's `loadgroup` does.

    That one writes the group of a test into its address, which pytest 9.2 does not let it do: it
    then deals tests one by one, and every worker starts every Slurm and every launch.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def is_slow(item: pytest.Item) -> bool:
    """Check whether a test is among those that take seconds: see `slow`."""
    file = item.path.relative_to(HERE).as_posix()
    return file in slow.FILES or f"{file}::{item.name.partition('[')[0]}" in slow.TESTS


def place(item: pytest.Item) -> int:
    """Return where a test comes in the order of all; those of equal places keep theirs."""
    if not item.get_closest_marker("launched"):
        return 0
    name = group(item.nodeid)
    return 1 + (FIRST.index(name) if name in FIRST else len(FIRST))


def about_to_run(item: pytest.Item) -> None:
    """Tell the launchers whether the test that runs next may start ranks."""
    launching.may_start_ranks = item.get_closest_marker("launched") is not None
