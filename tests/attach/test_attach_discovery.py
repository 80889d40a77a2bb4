"""Which world `attach` finds: pure functions of what launchers leave in the environment."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from hpc_localsgd.attach import discovery
from hpc_localsgd.types import ConfigurationError
from hpc_localsgd.worlds.simulated import Simulated

MPIRUN = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2"}
SBATCH = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
SRUN = {**SBATCH, "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("environ", "installed", "kind"),
    [
        ({}, {"horovod", "mpi4py"}, "simulated"),
        (MPIRUN, {"horovod", "mpi4py"}, "horovod"),
        (MPIRUN, {"mpi4py"}, "mpi"),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}, {"horovod"}, "horovod"),
        (TORCHRUN, {"horovod", "mpi4py"}, "torch"),
        (SBATCH, {"horovod"}, "simulated"),
        (SRUN, {"mpi4py"}, "mpi"),
    ],
)
def test_the_launcher_decides(
    environ: dict[str, str], installed: set[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "find_spec", lambda name: name if name in installed else None)
    assert discovery.choose(environ) == kind


@pytest.mark.parametrize(
    ("initialised", "kind"),
    [({"horovod.torch", "torch.distributed"}, "horovod"), ({"torch.distributed"}, "torch")],
)
def test_what_the_script_has_initialised_comes_first(
    initialised: set[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("horovod.torch", "torch.distributed"):
        answer = name in initialised
        library = SimpleNamespace(is_initialized=lambda answer=answer: answer)
        monkeypatch.setitem(sys.modules, name, library)
    assert discovery.choose(MPIRUN) == kind


def test_a_launcher_without_a_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install mpi4py"):
        discovery.choose(MPIRUN)


@pytest.mark.parametrize(
    "outer",
    [{**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, {"OMPI_COMM_WORLD_SIZE": "1"}, {"PMI_SIZE": "1"}],
)
def test_under_torchrun_its_ranks_count(
    outer: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "Torch", lambda workers, device: SimpleNamespace(n=2))
    monkeypatch.setattr(discovery.atexit, "register", lambda leave: None)
    assert discovery.world_here(torch.device("cpu"), {**outer, **TORCHRUN}).n == 2


@pytest.mark.parametrize(("of_mpi", "refused"), [(4, False), (1, True)])
def test_a_part_of_the_ranks_given_to_horovod_is_no_wrong_launch(
    of_mpi: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = SimpleNamespace(COMM_WORLD=SimpleNamespace(size=of_mpi))
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", ranks)
    monkeypatch.setattr(discovery, "choose", lambda environ: "horovod")
    monkeypatch.setattr(discovery, "Horovod", lambda workers, device: SimpleNamespace(n=2))
    four = {**MPIRUN, "OMPI_COMM_WORLD_SIZE": "4"}
    if refused:
        with pytest.raises(ConfigurationError, match="started 4 processes, but horovod joined 2"):
            discovery.world_here(torch.device("cpu"), four)
    else:
        assert discovery.world_here(torch.device("cpu"), four).n == 2


def test_a_library_that_joined_other_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "choose", lambda environ: "mpi")
    monkeypatch.setattr(discovery, "Mpi", lambda workers, device: Simulated(1, device))
    with pytest.raises(ConfigurationError, match="started 2 processes, but mpi joined 1"):
        discovery.world_here(torch.device("cpu"), MPIRUN)
