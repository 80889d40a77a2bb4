"""The same algorithms give the same numbers wherever the workers live: the heart of the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_algorithm import results
from launching import gloo, horovodrun, mpirun, run, torchrun
from variants import VARIANTS, name

from hpc_localsgd.worlds.simulated import Simulated

pytestmark = pytest.mark.launched

K = 4
SCRIPT = Path(__file__).parent / "every_algorithm.py"
# Launcher and its number of ranks -> the worlds that these join, one after another.
LAUNCHES: dict[tuple[Callable[[int], list[str]], int], tuple[str, ...]] = {
    (horovodrun, 2): ("mpi", "horovod"),
    (mpirun, 3): ("mpi", "horovod"),
    (mpirun, 4): ("mpi", "horovod", "torch"),
    (gloo, 2): ("horovod",),
    (gloo, 3): ("horovod",),
    (gloo, 4): ("horovod",),
    (torchrun, 2): ("torch",),
    (torchrun, 3): ("torch",),
}
CASES = [(*launch, world) for launch, worlds in LAUNCHES.items() for world in worlds]
Launch = Callable[[Callable[[int], list[str]], int], Path]


@pytest.fixture(scope="module")
def simulated() -> dict[str, Any]:
    """What one process with four workers computes."""
    return results(Simulated(K))


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Start a launcher with so many ranks, once; the folder of what came out in each world."""

    @cache
    def launched(launcher: Callable[[int], list[str]], ranks: int) -> Path:
        folder = tmp_path_factory.mktemp("worlds")
        words = [str(SCRIPT), str(K), str(folder), *LAUNCHES[launcher, ranks]]
        run(launcher(ranks), words).succeeded()
        return folder

    return launched


@pytest.fixture(
    scope="module", params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}-{case[2]}"
)
def elsewhere(request: pytest.FixtureRequest, launch: Launch) -> Any:
    """What the same four workers compute on two, three or four ranks of another world.

    Averages by themselves were compared before, in the ranks; see `averages`.
    """
    launcher, ranks, world = request.param
    return json.loads((launch(launcher, ranks) / f"{world}.json").read_text())


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
