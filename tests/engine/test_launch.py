from __future__ import annotations

import pytest

from hpc_localsgd.engine.launch import Launch, detect

SBATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def test_alone() -> None:
    assert detect({}) == Launch("none", 0, 1, 0, "")


def test_mpirun_inside_a_job_is_believed_over_slurm() -> None:
    # Under mpirun every rank of a job sees SLURM_PROCID=0.
    ompi = {
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "PMIX_RANK": "3",
    }
    assert detect({**SBATCH, **ompi}) == Launch("mpirun", 3, 4, 1, "OMPI_COMM_WORLD_SIZE")


def test_horovodrun_with_gloo_comes_first() -> None:
    gloo = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "1"}
    launch = detect({**SBATCH, **gloo, "OMPI_COMM_WORLD_RANK": "0"})
    assert (launch.launcher, launch.rank, launch.size) == ("horovodrun --gloo", 1, 2)


def test_srun_with_pmix() -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "PMIX_RANK": "2", "SLURM_LOCALID": "1"}
    assert detect({**SBATCH, **step}) == Launch("srun", 2, 4, 1, "SLURM_NTASKS")


def test_the_step_may_be_smaller_than_the_job() -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    assert detect({**SBATCH, **step}).size == 2


def test_a_job_script_without_srun_is_no_srun() -> None:
    assert detect(SBATCH).launcher == "sbatch"


@pytest.mark.parametrize("name", ["HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_a_size_alone_is_enough(name: str) -> None:
    launch = detect({name: "4"})
    assert (launch.rank, launch.size, launch.source) == (0, 4, name)


def test_nonsense_is_not_a_number() -> None:
    assert detect({"PMI_RANK": "zero", "PMI_SIZE": "-1"}).size is None


def test_srun_with_pmi2_says_which_gpu() -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "3", "PMI_RANK": "11", "PMI_SIZE": "16"}
    launch = detect({**SBATCH, **step})
    assert (launch.rank, launch.size, launch.local_rank) == (11, 16, 3)


def test_without_a_local_rank_no_gpu_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from hpc_localsgd.commands.assembly.worlds import device_for
    from hpc_localsgd.errors import ConfigurationError

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigurationError, match="8 GPUs, and the launcher does not say"):
        device_for("cuda", None)
