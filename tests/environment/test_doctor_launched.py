"""The doctor, really launched: alone, under mpirun, under horovodrun, and by a wrong launcher."""

from __future__ import annotations

import json
import sys

import pytest

pytestmark = pytest.mark.launched

DOCTOR = [sys.executable, "-m", "hpc_localsgd", "doctor"]


def lines_of(output: str, name: str) -> list[str]:
    return [line for line in output.splitlines() if f" {name}  " in line]


def test_alone(run) -> None:
    """Without HOME, too, as of a service: Open MPI ends a process that has none."""
    done = run(["env", "-u", "HOME", *DOCTOR, "--json"])
    assert done.returncode == 0, done.stdout + done.stderr
    levels = {finding["name"]: finding["level"] for finding in json.loads(done.stdout)}
    assert levels["PyTorch"] == levels["HDF5"] == levels["ranks"] == "ok"
    assert levels["mpirun"] == "warning"


def test_under_mpirun(run, mpirun: list[str]) -> None:
    done = run([*mpirun, *DOCTOR])
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = lines_of(done.stdout, "ranks")  # one table, not one for each rank
    assert "2 started by mpirun" in line


@pytest.mark.parametrize("controller", [[], ["--gloo"]], ids=["mpi", "gloo"])
def test_under_horovodrun(run, horovodrun: list[str], controller: list[str]) -> None:
    done = run([*horovodrun, *controller, *DOCTOR])
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = lines_of(done.stdout, "ranks")
    assert "2 started by" in line


def test_under_torchrun(run, torchrun: list[str]) -> None:
    done = run([*torchrun, *DOCTOR])
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = lines_of(done.stdout, "ranks")
    assert "2 started by torchrun" in line


def test_singletons_are_found_out(run) -> None:
    done = run(DOCTOR, OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "problem" in lines_of(done.stdout, "ranks")[0]


def test_only_the_first_singleton_prints_but_all_fail(run) -> None:
    done = run(DOCTOR, OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_RANK="3")
    assert done.returncode == 1
    assert "ranks" not in done.stdout


def test_a_job_script_without_srun(run) -> None:
    done = run(DOCTOR, SLURM_JOB_ID="7", SLURM_NTASKS="4", SLURM_PROCID="0")
    assert done.returncode == 1
    assert "srun --mpi=pmix" in done.stdout
