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
from launching import Job, gloo, horovodrun, mpirun, started
from variants import VARIANTS, name

from hpc_localsgd.worlds.simulated import Simulated

pytestmark = pytest.mark.launched

K = 4
SCRIPT = Path(__file__).parent / "every_algorithm.py"
# Launcher and its number of ranks -> the worlds that these join, one after another.
LAUNCHES: dict[tuple[Callable[[int], list[str]], int], tuple[str, ...]] = {
    (horovodrun, 2): ("mpi", "horovod", "torch"),
    (mpirun, 3): ("mpi", "horovod", "torch"),
    (mpirun, 4): ("mpi", "horovod", "torch"),
    (gloo, 3): ("horovod",),
}
CASES = [(*launch, world) for launch, worlds in LAUNCHES.items() for world in worlds]
Launch = Callable[[Callable[[int], list[str]], int], tuple[Path, Job]]


@pytest.fixture(scope="module")
def simulated() -> dict[str, Any]:
    """What one process with four workers computes."""
    return results(Simulated(K))


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Start a launcher with so many ranks, once; the folder of what comes out in each world."""
    with ExitStack() as stack:

        @cache
        def launched(launcher: Callable[[int], list[str]], ranks: int) -> tuple[Path, Job]:
            folder = tmp_path_factory.mktemp("worlds")
            words = [str(SCRIPT), str(K), str(folder), *LAUNCHES[launcher, ranks]]
            return folder, stack.enter_context(started(launcher(ranks), words))

        yield launched


@pytest.fixture(
    scope="module", params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}-{case[2]}"
)
def begun(request: pytest.FixtureRequest, launch: Launch) -> tuple[Path, Job, str, bool]:
    """The folder and job of a world that has begun: averages by themselves were exact there.

    Whether it is the last one of its launch, too.
    """
    launcher, ranks, world = request.param
    folder, job = launch(launcher, ranks)
    has_come(folder / f"{world}.exact", job)
    return folder, job, world, world == LAUNCHES[launcher, ranks][-1]


@pytest.fixture(scope="module")
def elsewhere(begun: tuple[Path, Job, str, bool]) -> Any:
    """What the same four workers compute on two, three or four ranks of another world.

    Each world is waited for alone, the last one of a launch to its end.
    """
    folder, job, world, last = begun
    found = has_come(folder / f"{world}.json", job)
    if last:
        job.wait().succeeded()
    return json.loads(found.read_text())


def has_come(file: Path, job: Job) -> Path:
    """Wait for a file of a job; itself."""
    job.until(file.exists, 100, f"{file.name} is there")
    return file


def test_averages_in_place_and_under_way_are_exact(begun: tuple[Path, Job, str, bool]) -> None:
    """The ranks compare them and fail where they differ: see `averages`."""
    folder, _, world, _ = begun
    assert (folder / f"{world}.exact").exists()


@pytest.mark.parametrize("algorithm", VARIANTS, ids=name)
def test_the_numbers_do_not_depend_on_where_workers_live(
    algorithm: Any, simulated: dict[str, Any], elsewhere: dict[str, Any]
) -> None:
    here, there = simulated[name(algorithm)], elsewhere[name(algorithm)]
    mean = np.array(here["mean"])
    apart = np.abs(np.array(there["mean"]) - mean).max() / np.abs(mean).max()
    assert apart < 1e-12
    assert there["rounds"] == here["rounds"]
    np.testing.assert_array_equal(there["payload"], here["payload"])
