"""Two hosts that have a bridge of one address: the doctor says what is so, and runs end.

Open MPI would connect each rank to itself there, and wait for ever; Gloo goes by the host's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts
from launches import run_on
from launching import TRAIN, patient
from test_ranks_on_hosts import SMALL

from hpc_localsgd.trajectory import Trajectory

BOTH = {"a": 1, "b": 1}
DOCTOR = ("-m", "hpc_localsgd", "doctor")
BY = {"gloo": "horovodrun --gloo", "horovodrun": "mpirun"}  # who starts ranks, where not the same
WARNED = ("mpirun", "srun")  # horovodrun itself names the interface that all hosts share

pytestmark = pytest.mark.timeout(patient(300))


@pytest.fixture(scope="module", autouse=True)
def bridged(hosts: Hosts) -> Iterator[None]:
    with hosts["a"].bridge(), hosts["b"].bridge():
        yield


@pytest.fixture
def launcher(request: pytest.FixtureRequest) -> str:
    """The one asked for; srun needs a Slurm."""
    if request.param == "srun":
        request.getfixturevalue("slurm")
    return str(request.param)


@pytest.mark.parametrize(
    "launcher", ["mpirun", "horovodrun", "gloo", "torchrun", "srun"], indirect=True
)
def test_the_doctor_says_what_is_so(hosts: Hosts, launcher: str) -> None:
    said = [outcome.succeeded().stdout for outcome in run_on(hosts, launcher, BOTH, DOCTOR)]
    (table,) = filter(None, said)  # one, whatever started the ranks
    assert f" 2 started by {BY.get(launcher, launcher)}\n" in table
    assert " a x 1, b x 1\n" in table and " the same on every rank\n" in table
    warned = "a has docker0 172.17.0.1: if other hosts have it too" in table
    assert warned == (launcher in WARNED), table
    assert ("export OMPI_MCA_btl_tcp_if_include=eth0, or mpirun --mca" in table) == warned


@pytest.mark.parametrize("launcher", WARNED, indirect=True)
def test_a_run_leaves_the_bridge_out_and_says_so(
    hosts: Hosts, tmp_path: Path, launcher: str
) -> None:
    out = tmp_path / "run"
    options = [word for word in SMALL if not word.startswith("--world")]
    (ended,) = run_on(hosts, launcher, BOTH, [*TRAIN, *options, "--figures=false", f"--out={out}"])
    ended.succeeded()
    assert ended.stderr.count("is told to leave out docker0 172.17.0.1, a bridge of a's own") == 1
    assert Trajectory(out).status == "complete" and Trajectory(out).K == 2
