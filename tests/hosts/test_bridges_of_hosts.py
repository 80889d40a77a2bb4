"""Two hosts that have a bridge of one address: the doctor says what is so, and runs end.

Open MPI would connect each rank to itself there, and wait for ever; Gloo goes by the host's name.
Runs are those of `test_launchers_on_hosts`, and so are the doctors of which ranks then train.
"""

from __future__ import annotations

import pytest
from hosts import Hosts
from launches import bridged, run_on
from launching import patient

BOTH = {"a": 1, "b": 1}
DOCTOR = ("-m", "hpc_localsgd", "doctor")
BY = {"gloo": "horovodrun --gloo", "horovodrun": "mpirun"}  # who starts ranks, where not the same
BEFORE_RUNS = ("horovodrun", "gloo")  # whose doctor leaves a launch fit to train
WARNED = ("mpirun", "srun")  # horovodrun itself names the interface that all hosts share

pytestmark = pytest.mark.timeout(patient(300))


@pytest.mark.parametrize("launcher", [*WARNED, "torchrun"])
def test_the_doctor_says_what_is_so(
    hosts: Hosts, request: pytest.FixtureRequest, launcher: str
) -> None:
    if launcher == "srun":
        request.getfixturevalue("slurm")
    with bridged(hosts, "a", "b"):
        ended = run_on(hosts, launcher, BOTH, DOCTOR)
    check_table(launcher, "".join(outcome.succeeded().stdout for outcome in ended))


def check_table(launcher: str, said: str) -> None:
    """The doctor has said what is so, once for all ranks."""
    assert said.count(f" 2 started by {BY.get(launcher, launcher)}\n") == 1, said
    assert " a x 1, b x 1\n" in said and " the same on every rank\n" in said, said
    warned = "a has docker0 172.17.0.1: if other hosts have it too" in said
    assert warned == (launcher in WARNED), said
    assert ("export OMPI_MCA_btl_tcp_if_include=eth0, or mpirun --mca" in said) == warned


def check_left_out(said: str) -> None:
    """A run leaves the bridge out, and says so."""
    assert said.count("is told to leave out docker0 172.17.0.1, a bridge of a's own") == 1, said
