"""The same algorithms give the same numbers wherever the workers live: the heart of the package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_algorithm import results
from launching import Job, behind_tests, gloo, mpirun, started
from variants import OPERATIONS, VARIANTS, name

from hpc_localsgd.worlds.simulated import Simulated

pytestmark = pytest.mark.launched

K = 4
SCRIPT = Path(__file__).parent / "every_algorithm.py"
Launcher = Callable[[int], list[str]]
# Launcher and its number of ranks -> the worlds that all or some of these join, one after another.
# On three ranks, which have 2, 1 and 1 workers, every variant is run over every library.
LAUNCHES: dict[tuple[Launcher, int], tuple[str, ...]] = {
    (mpirun, 4): (
        *("mpi-4-all", "horovod-4", "torch-4"),
        *("mpi-3-all", "horovod-3-all", "torch-3-all"),
        *("mpi-2", "horovod-2", "torch-2"),
    ),
    (gloo, 3): ("horovod-3",),
}
CASES = [(*launch, part) for launch, parts in LAUNCHES.items() for part in parts]
COMPARED = [
    pytest.param(case, algorithm, id=f"{case[0].__name__}-{case[2]}-{name(algorithm)}")
    for case in CASES
    for algorithm in (VARIANTS if case[2].endswith("-all") else OPERATIONS)
]
Case = tuple[Launcher, int, str]
Launch = Callable[[Launcher, int], tuple[Path, Job]]


@pytest.fixture(scope="module")
def simulated() -> dict[str, Any]:
    """What one process with four workers computes."""
    return results(Simulated(K), VARIANTS, replicas="auto")


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Start a launcher with so many ranks, once; the folder of what comes out in each world."""
    with ExitStack() as stack:

        @cache
        def launched(launcher: Launcher, ranks: int) -> tuple[Path, Job]:
            folder = tmp_path_factory.mktemp("worlds")
            words = [str(SCRIPT), str(K), str(folder), *LAUNCHES[launcher, ranks]]
            return folder, stack.enter_context(started(behind_tests(launcher(ranks)), words))

        yield launched


@pytest.fixture(scope="module")
def elsewhere(launch: Launch) -> Callable[[Case], dict[str, Any]]:
    """What the same four workers compute on two, three or four ranks of another world.

    Each world is waited for alone, the last one of a launch to its end.
    """

    @cache
    def computed(case: Case) -> dict[str, Any]:
        launcher, ranks, part = case
        folder, job = launch(launcher, ranks)
        found = has_come(folder / f"{part}.json", job)
        if part == LAUNCHES[launcher, ranks][-1]:
            job.wait().succeeded()
        read: dict[str, Any] = json.loads(found.read_text())
        return read

    return computed


def has_come(file: Path, job: Job) -> Path:
    """Wait for a file of a job; itself."""
    job.until(file.exists, 100, f"{file.name} is there")
    return file


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{case[2]}")
def test_averages_in_place_and_under_way_are_exact(case: Case, launch: Launch) -> None:
    """The ranks compare them and fail where they differ: see `averages`."""
    launcher, ranks, part = case
    folder, job = launch(launcher, ranks)
    has_come(folder / f"{part}.exact", job)


@pytest.mark.parametrize(("case", "algorithm"), COMPARED)
def test_the_numbers_do_not_depend_on_where_workers_live(
    case: Case,
    algorithm: Any,
    simulated: dict[str, Any],
    elsewhere: Callable[[Case], dict[str, Any]],
) -> None:
    here, there = simulated[name(algorithm)], elsewhere(case)[name(algorithm)]
    mean = np.array(here["mean"])
    apart = np.abs(np.array(there["mean"]) - mean).max() / np.abs(mean).max()
    assert apart < 1e-12
    assert there["rounds"] == here["rounds"]
    np.testing.assert_array_equal(there["payload"], here["payload"])
