from __future__ import annotations

from dataclasses import replace

import pytest

from hpc_localsgd.commands import doctor
from hpc_localsgd.engine.finding import Finding
from hpc_localsgd.engine.launch import Launch
from hpc_localsgd.environment import checks, launch_checks
from hpc_localsgd.environment.doctor_report import as_json, as_table, exit_status
from hpc_localsgd.environment.facts import Facts


def under(facts: Facts, launcher: str, ranks: int, **changes: object) -> list[Facts]:
    """The facts of a healthy launch of so many ranks."""
    return [
        replace(
            facts, rank=r, launch=Launch(launcher, r, ranks, r, "SIZE"), started=ranks, **changes
        )
        for r in range(ranks)
    ]


def test_a_healthy_process_has_nothing_to_complain_about(healthy: Facts) -> None:
    assert {finding.level for finding in doctor.examine([healthy])} == {"ok"}


def test_every_finding_that_is_not_ok_says_what_to_type(healthy: Facts) -> None:
    bare = replace(healthy, torch=None, h5py=None, horovod=None, mpi4py=None, python="3.9.1")
    bad = [finding for finding in doctor.examine([bare]) if finding.level != "ok"]
    assert len(bad) == 5
    assert all(finding.fix for finding in bad)


@pytest.mark.parametrize(
    ("check", "changes", "level", "said"),
    [
        (checks.torch, {"torch": None}, "problem", "pip install torch"),
        (checks.cuda, {"nvidia_driver": True}, "warning", "CPU build"),
        (checks.cuda, {"nvidia_driver": True, "torch_cuda": "13.0"}, "warning", "sees none"),
        (checks.cuda, {"torch_cuda": "13.0", "cuda_devices": 4}, "ok", "4 device"),
        (checks.mpi, {"errors": {"MPI": "cannot load"}}, "problem", "cannot load"),
        (checks.mpi, {"mpi_threads": "single"}, "warning", "MPI_THREAD_MULTIPLE"),
        (checks.mpirun, {"mpirun": "mpirun (Open MPI) 4.1.6"}, "warning", "loads Open MPI v5.0.11"),
        (checks.mpirun, {"mpirun": "mpirun (Open MPI) 5.0.9"}, "ok", "5.0.9"),
        (checks.mpirun, {"home": False}, "warning", "export HOME="),
        (checks.mpirun, {"mpirun": "Intel(R) MPI Library, Version 2021"}, "ok", "Intel"),
        (checks.horovod, {"horovod_torch": "2.12.0"}, "problem", "built for torch 2.12.0"),
        (checks.horovod, {"horovod": None}, "warning", "hpc_localsgd.environment.horovod"),
        (checks.horovod, {"horovod_lets_go": False}, "warning", "hears no signal"),
        (checks.horovod, {"errors": {"Horovod": "undefined symbol"}}, "problem", "--force"),
        (checks.nccl, {"cuda_devices": 1}, "warning", "NCCL"),
        (checks.hdf5, {"h5py": None}, "problem", "pip install h5py"),
        (checks.slurm, {"environ": {"SLURM_JOB_ID": "7"}}, "ok", "job_id=7"),
    ],
)
def test_a_machine(healthy: Facts, check, changes, level: str, said: str) -> None:
    finding = check(replace(healthy, **changes))
    assert finding.level == level
    assert said in f"{finding.text} {finding.fix}"


def test_singletons_under_a_wrong_launcher(healthy: Facts) -> None:
    alone = replace(healthy, launch=Launch("mpirun", 2, 4, 2, "OMPI_COMM_WORLD_SIZE"), started=1)
    finding = launch_checks.ranks([alone])
    assert finding.level == "problem"
    assert "4 asked (OMPI_COMM_WORLD_SIZE=4), 1 started" in finding.text
    assert "mpirun" in finding.fix


def test_a_job_script_that_forgot_srun(healthy: Facts) -> None:
    forgot = replace(healthy, launch=Launch("sbatch", 0, 4, 0, "SLURM_NTASKS"))
    assert "srun --mpi=pmix" in launch_checks.ranks([forgot]).fix


def test_a_healthy_launch(healthy: Facts) -> None:
    findings = doctor.examine(under(healthy, "mpirun", 4))
    assert exit_status(findings) == 0
    assert "4 started by mpirun" in as_table(findings)


def test_a_host_that_does_not_know_its_name(healthy: Facts) -> None:
    finding = launch_checks.hosts([replace(healthy, host_resolves=False)])
    assert (finding.level, "/etc/hosts" in finding.fix) == ("problem", True)


def test_different_software_on_one_rank(healthy: Facts) -> None:
    one, other = under(healthy, "mpirun", 2)
    assert launch_checks.versions([one, replace(other, torch="2.12.0")]).level == "problem"
    assert launch_checks.versions([one, replace(other, package="0123")]).level == "problem"


def test_one_bad_rank_is_named(healthy: Facts) -> None:
    one, other = under(healthy, "mpirun", 2)
    findings = doctor.examine([one, replace(other, h5py=None, host="node2")])
    assert any("rank 1 on node2" in finding.text for finding in findings)


def test_gpus_are_dealt_out_by_local_rank(healthy: Facts) -> None:
    four = under(healthy, "mpirun", 4, cuda_devices=4)
    assert [launch_checks.device_of(facts) for facts in four] == [f"cuda:{i}" for i in range(4)]
    assert launch_checks.devices(four).level == "ok"


def test_two_ranks_on_one_gpu(healthy: Facts) -> None:
    assert launch_checks.devices(under(healthy, "mpirun", 2, cuda_devices=1)).level == "warning"


def test_one_gpu_for_each_task_is_not_sharing(healthy: Facts) -> None:
    both = under(healthy, "srun", 2, cuda_devices=1)
    own = [replace(f, environ={"CUDA_VISIBLE_DEVICES": str(f.rank)}) for f in both]
    assert launch_checks.devices(own).level == "ok"


def test_more_ranks_than_cores(healthy: Facts) -> None:
    finding = launch_checks.oversubscription(under(healthy, "mpirun", 4, cores=2))
    assert finding.level == "warning"
    assert "OMPI_MCA_mpi_yield_when_idle=1" in finding.fix
    assert "--bind-to none" in finding.fix


def test_more_threads_than_cores(healthy: Facts) -> None:
    finding = launch_checks.oversubscription(under(healthy, "mpirun", 4, environ={}))
    assert finding.fix == "export OMP_NUM_THREADS=2"


def test_fork_after_mpi(healthy: Facts) -> None:
    one = under(healthy, "mpirun", 2, start_method="fork")[0]
    assert "forkserver" in checks.dataloader(one).fix


def test_the_cycle_time_is_advice_for_a_horovod_built_elsewhere_under_mpi(healthy: Facts) -> None:
    assert launch_checks.cycle_time(under(healthy, "mpirun", 2)).level == "warning"
    assert launch_checks.cycle_time(under(healthy, "mpirun", 2, horovod_rests=True)).level == "ok"
    assert launch_checks.cycle_time(under(healthy, "horovodrun --gloo", 2)).level == "ok"


def test_the_table_is_aligned_and_json_is_a_list() -> None:
    found = [Finding("ok", "a", "fine"), Finding("problem", "longer", "broken", "mend it")]
    lines = as_table(found).splitlines()
    assert lines[0].index("fine") == lines[1].index("broken") == lines[2].index("-> mend it")
    assert lines[-1] == "1 problem, no warnings."
    assert as_json(found).startswith("[")
    assert exit_status(found) == 1


def test_ranks_bound_to_a_core_each_do_not_share_it(healthy: Facts) -> None:
    bound = [replace(f, cores=1, cpus=(i,)) for i, f in enumerate(under(healthy, "mpirun", 2))]
    assert launch_checks.oversubscription(bound).level == "ok"
    same = [replace(f, cpus=(0,)) for f in bound]
    assert launch_checks.oversubscription(same).level == "warning"
