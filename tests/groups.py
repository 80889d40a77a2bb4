"""Which tests start ranks, and which tests must run in one process, one after another.

`make test` runs all tests on three workers, a group of them at a time. Two begin with the tests
that start ranks: these mostly wait, for a Slurm, for a launcher, for a rank that is killed. The
third begins with the tests that start none and computes meanwhile, where the first two leave a
processor. A fourth, on two cores, costs more than it gains: each collects all tests. A test that
starts ranks says so with `@pytest.mark.launched`; `launching` refuses to serve one that does not.
Tests of one group share their fixtures: a launch, a Slurm, hosts.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import launching
import pytest
import slow
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

HERE = Path(__file__).parent
LAUNCHED = ("hosts", "mpi")  # folders all of whose tests start ranks
TOGETHER = ("hosts", "slurm", "sharpness")  # folders whose tests share what is made once
CLUSTERS = {"cluster", "slurm"}  # fixtures that are a Slurm
RECIPES = ("test_recipes.py", "test_recipes_tried_out.py")
_WORD = re.compile(r"(not )?\w+")  # of an expression
LAUNCHING = 2  # workers that begin with tests that start ranks
# Groups that take longest begin first, so that no worker is left alone with one at the end.
FIRST = (
    *("hosts", "slurm", "test_recipes_tried_out", "test_stopping", "test_same_numbers"),
    *("test_torchrun_elastic", "test_measured_by_ranks"),
    *("test_every_world", "test_odd_command_lines", "test_tasks_contract"),
    *("test_checkpoint", "test_recipes", "test_restated_attached", "test_report", "test_whatif"),
    *("test_attach_ends", "test_loader_processes", "test_merging", "test_ends"),
    *("test_torch_ends", "test_gloo_threads"),  # which would come last, alone
)


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
    return folder if folder in TOGETHER else file.removesuffix(".py")


class ByGroup(LoadScopeScheduling):
    """Gives all tests of a group to one worker, as xdist's `loadgroup` does.

    That one writes the group of a test into its address, which pytest 9.2 does not let it do: it
    then deals tests one by one, and every worker starts every Slurm and every launch.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        launching = number(node.gateway.id) < LAUNCHING
        mine = [each for each in self.workqueue if self._starts_ranks(each) == launching]
        chosen = min(mine or self.workqueue, key=length)
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)

    def _starts_ranks(self, name: str) -> bool:
        files = {test.partition("::")[0] for test in self.workqueue[name]}
        return any(starts_ranks(self.config.rootpath / file) for file in files)


def number(worker: str) -> int:
    """Return which worker of xdist this is: `gw3` is 3."""
    return int(worker.removeprefix("gw"))


def length(name: str) -> int:
    """Return the place of a group among those that take longest; all others come behind."""
    return FIRST.index(name) if name in FIRST else len(FIRST)


@cache
def starts_ranks(file: Path) -> bool:
    """Check whether some test of a file starts ranks."""
    folders = {*LAUNCHED, "slurm"}
    return file.parent.name in folders or "pytest.mark.launched" in file.read_text()


def give_way(worker: str) -> None:
    """Let ranks have the processors first: workers that start none compute where those wait."""
    if number(worker) >= LAUNCHING:
        os.nice(5)


def left_out(path: Path, expression: str) -> bool:
    """Check whether all tests of a file or folder are among those that `make quick` leaves out.

    Args:
        path: Of the file or folder.
        expression: What follows `-m`. Nothing is concluded where it does not leave out both kinds
            of tests, or joins words otherwise than by `and`.
    """
    asked = expression.split(" and ")
    if not {"not launched", "not slow"} <= set(asked) or not all(map(_WORD.fullmatch, asked)):
        return False
    file = path.relative_to(HERE).as_posix()
    if file in (*LAUNCHED, *slow.FILES):
        return True
    of_tests = path.match("test_*.py")
    return of_tests and "\npytestmark = pytest.mark.launched\n" in path.read_text()


def is_slow(item: pytest.Item) -> bool:
    """Check whether a test is among those that take seconds: see `slow`."""
    file = item.path.relative_to(HERE).as_posix()
    return file in slow.FILES or f"{file}::{item.name.partition('[')[0]}" in slow.TESTS


def place(item: pytest.Item) -> int:
    """Return where a test comes in the order of all; those of equal places keep theirs."""
    if not item.get_closest_marker("launched"):
        return 0
    return 1 + length(group(item.nodeid))


def about_to_run(item: pytest.Item) -> None:
    """Tell the launchers whether the test that runs next may start ranks."""
    launching.may_start_ranks = item.get_closest_marker("launched") is not None
