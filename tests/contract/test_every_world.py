"""The same algorithms give the same numbers wherever the workers live: the heart of the package."""

from __future__ import annotations

import json
from collections.abc import Callable
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
LAUNCHES: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "mpi-2x2": ("mpi", lambda: mpirun(2)),
    "mpi-4x1": ("mpi", lambda: mpirun(4)),
    "horovod-mpi-2x2": ("horovod", lambda: horovodrun(2)),
    "horovod-mpi-4x1": ("horovod", lambda: mpirun(4)),
    "horovod-gloo-2x2": ("horovod", lambda: gloo(2)),
    "horovod-gloo-4x1": ("horovod", lambda: gloo(4)),
    "torch-gloo-2x2": ("torch", lambda: torchrun(2)),
    "torch-gloo-4x1": ("torch", lambda: mpirun(4)),
    "mpi-2-1-1": ("mpi", lambda: mpirun(3)),
    "horovod-mpi-2-1-1": ("horovod", lambda: mpirun(3)),
    "horovod-gloo-2-1-1": ("horovod", lambda: gloo(3)),
    "torch-gloo-2-1-1": ("torch", lambda: torchrun(3)),
}


@pytest.fixture(scope="module")
def simulated() -> dict[str, Any]:
    """What one process with four workers computes."""
    return results(Simulated(K))


@pytest.fixture(scope="module", params=LAUNCHES)
def elsewhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the same four workers compute on two, three or four ranks of another world."""
    world, launcher = LAUNCHES[request.param]
    out = tmp_path_factory.mktemp("world") / "results.json"
    run(launcher(), [str(SCRIPT), world, str(K), str(out)]).succeeded()
    return json.loads(out.read_text())


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
