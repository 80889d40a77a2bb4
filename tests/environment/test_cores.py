"""Ranks share a host's cores without being told, and what was told stays."""

from __future__ import annotations

import pytest

from hpc_localsgd.environment.cores import share_cores

YIELD = "OMPI_MCA_mpi_yield_when_idle"


@pytest.mark.parametrize(
    ("ranks", "mine", "around", "threads", "yields"),
    [
        (4, 2, 2, "1", True),  # 4 ranks on a laptop of 2 cores: spinning would take minutes
        (2, 2, 2, "1", False),
        (4, 10, 40, "10", False),  # bound to 10 cores each
        (4, 40, 40, "10", False),  # not bound
        (4, 40, 128, "10", False),  # an allocation of 40 cores of 128, not bound
        (8, 4, 4, "1", True),  # a container of 4 cores, whatever its host has
        (2, 1, 2, "1", False),
    ],
)
def test_threads_and_yielding(
    ranks: int, mine: int, around: int, threads: str, yields: bool
) -> None:
    environ = {"OMPI_COMM_WORLD_LOCAL_SIZE": str(ranks)}
    share_cores(environ, mine, around)
    assert environ["OMP_NUM_THREADS"] == threads
    assert (YIELD in environ) == yields


def test_what_the_user_set_stays() -> None:
    environ = {"HOROVOD_LOCAL_SIZE": "4", "OMP_NUM_THREADS": "3", YIELD: "0"}
    share_cores(environ, 2, 2)
    assert environ["OMP_NUM_THREADS"] == "3" and environ[YIELD] == "0"


def test_slurm_says_how_many_cores_a_rank_has() -> None:
    environ = {"SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "6"}
    share_cores(environ, 64, 128)
    assert environ["OMP_NUM_THREADS"] == "6"


def test_a_process_alone_is_left_alone() -> None:
    environ: dict[str, str] = {}
    share_cores(environ, 2, 2)
    assert environ == {}
