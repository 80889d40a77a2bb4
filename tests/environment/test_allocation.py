"""The hosts a job was given, by what launchers and Slurm leave behind, and those without a rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from hpc_localsgd.engine.launch import Launch
from hpc_localsgd.environment import allocation, launch_checks
from hpc_localsgd.environment.facts import Facts

FILES = {"hosts": "a slots=4\n# b slots=1\n\nc:2\n", "pbs": "n1\nn1\nn2\n"}
STEP = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_STEP_NODELIST": "n2"}


def read(path: str) -> str:
    try:
        return FILES[path]
    except KeyError as error:
        raise OSError from error


@pytest.mark.parametrize(
    ("environ", "command", "hosts"),
    [
        ({}, "prterun --host a:1,b:1 -np 2 python", "a b"),
        ({}, "/env/bin/mpirun --host=a,b:2 -np 2 python", "a b"),
        ({}, "mpirun -H 10.0.0.1:1,10.0.0.2 python", "10.0.0.1 10.0.0.2"),
        ({"SLURM_JOB_NODELIST": "n[1-2]"}, "mpirun -H localhost:2 python", "n1 n2"),
        ({}, "horovodrun -np 3 -H a:2,b:1 python", "a b"),
        ({}, "mpirun --hostfile hosts python", "a c"),
        ({}, "mpirun --hostfile gone python", ""),
        ({}, "python --host a", ""),  # not a launcher
        ({"SLURM_JOB_NODELIST": "n[08-10],gpu[1,3]-ib"}, "bash", "n08 n09 n10 gpu1-ib gpu3-ib"),
        ({"SLURM_JOB_NODELIST": "n[1-3]"}, "mpirun --host n1 python", "n1"),
        (STEP, "slurmstepd", "n2"),  # srun was asked for fewer
        ({**STEP, "OMPI_COMM_WORLD_RANK": "0"}, "prted", "n1 n2 n3"),
        ({"PBS_NODEFILE": "pbs"}, "bash", "n1 n2"),
        ({}, "bash", ""),
    ],
)
def test_the_hosts_of_a_job(environ: Mapping[str, str], command: str, hosts: str) -> None:
    found = allocation.allocated_hosts(environ, [["sh"], command.split()], read)
    assert " ".join(found) == hosts


@pytest.mark.parametrize(
    ("given", "present", "idle"),
    [
        ("a b", "a a", "b"),
        ("a b", "a b", ""),
        ("a.cluster b.cluster", "a b", ""),
        ("a b c", "b.cluster", "a c"),
        ("10.0.0.1 10.0.0.2", "a b", ""),  # by addresses: as many as there are
        ("10.0.0.1 10.0.0.2", "a", "10.0.0.1"),
        ("localhost", "a", ""),
        ("", "a", ""),
    ],
)
def test_hosts_without_a_rank(given: str, present: str, idle: str) -> None:
    assert " ".join(allocation.idle_hosts(given.split(), present.split())) == idle


def test_the_doctor_warns_of_a_host_without_a_rank(healthy: Facts) -> None:
    ranks = [
        replace(healthy, rank=r, launch=Launch("mpirun", r, 2, r, "SIZE"), host="a", started=2)
        for r in range(2)
    ]
    assert launch_checks.hosts(ranks).level == "ok"
    ranks[0] = replace(ranks[0], allocated=("a", "b"))  # rank 0 is below its launcher
    finding = launch_checks.hosts(ranks)
    assert finding.level == "warning" and "a x 2; b: in the allocation" in finding.text
    assert "--map-by ppr" in finding.fix
    one_process = [replace(healthy, host="a", allocated=("a", "b"))]
    assert launch_checks.hosts(one_process).level == "ok"


def test_the_start_of_a_run_says_where_its_workers_are_and_which_hosts_are_idle() -> None:
    assert allocation.told(["a", "a", "a", "b"], ("a", "b")) == ["workers on a x 3, b x 1"]
    assert allocation.told(["a"], ()) == ["workers on a x 1"]
    where, warning = allocation.told(["a"] * 4, ("a", "b"))
    assert where == "workers on a x 4"
    assert warning.startswith("b: in the allocation, but without a rank: mpirun --map-by ppr")
