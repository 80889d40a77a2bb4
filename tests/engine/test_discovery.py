"""Which world the trainer and `attach` find, from what launchers leave in the environment."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import hpc_localsgd
from hpc_localsgd.commands.assembly.worlds import join_world
from hpc_localsgd.engine import discovery, reachability
from hpc_localsgd.engine.host_network import HostNetwork, Interface
from hpc_localsgd.engine.launch import detect
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.simulated import Simulated

CPU = torch.device("cpu")
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
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}, {"horovod"}, "simulated"),
        ({"PMI_RANK": "0"}, {"horovod"}, "horovod"),
        (TORCHRUN, {"horovod", "mpi4py"}, "torch"),
        (SBATCH, {"horovod"}, "simulated"),
        (SRUN, {"mpi4py"}, "mpi"),
    ],
)
def test_the_launcher_decides(
    environ: dict[str, str], installed: set[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "find_spec", lambda name: name if name in installed else None)
    assert discovery.kind_of_world(detect(environ)) == kind


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
    assert discovery.kind_of_world(detect(MPIRUN)) == kind


def test_a_launcher_without_a_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install mpi4py"):
        discovery.kind_of_world(detect(MPIRUN))


@pytest.mark.parametrize(
    "outer",
    [{**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, {"OMPI_COMM_WORLD_SIZE": "1"}, {"PMI_SIZE": "1"}],
)
def test_under_torchrun_its_ranks_count(
    outer: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(discovery.WORLDS, "torch", lambda workers, device: SimpleNamespace(n=2))
    launch = detect({**outer, **TORCHRUN})
    assert discovery.join(discovery.kind_of_world(launch), launch, CPU).n == 2


@pytest.mark.parametrize(("tasks", "refused"), [(1, False), (2, True)])
def test_a_job_of_two_tasks_has_several(tasks: int, refused: bool) -> None:
    launch = detect({**SBATCH, "SLURM_STEP_NUM_TASKS": str(tasks)})
    if refused:
        with pytest.raises(ConfigurationError, match="Slurm gave this job 2 tasks"):
            discovery.kind_of_world(launch, "say so")
    else:
        assert discovery.kind_of_world(launch, "say so") == "simulated"


@pytest.mark.parametrize(("of_mpi", "refused"), [(4, False), (1, True)])
def test_a_part_of_the_ranks_given_to_horovod_is_no_wrong_launch(
    of_mpi: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = SimpleNamespace(COMM_WORLD=SimpleNamespace(size=of_mpi))
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", ranks)
    monkeypatch.setitem(discovery.WORLDS, "horovod", lambda workers, device: SimpleNamespace(n=2))
    four = detect({**MPIRUN, "OMPI_COMM_WORLD_SIZE": "4"})
    if refused:
        with pytest.raises(ConfigurationError, match="started 4 processes, but horovod joined 2"):
            discovery.join("horovod", four, CPU)
    else:
        assert discovery.join("horovod", four, CPU).n == 2


def test_a_library_that_joined_other_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(discovery.WORLDS, "mpi", lambda workers, device: Simulated(1, device))
    said = "started 2 processes, but mpi joined 1: .*; if no .*`unset OMPI_COMM_WORLD_SIZE`"
    with pytest.raises(ConfigurationError, match=said):
        discovery.join("mpi", detect(MPIRUN), CPU)
    said = r"srun started 4 processes, but mpi joined 1: .* type `srun --mpi=pmix` .*mpirun$"
    with pytest.raises(ConfigurationError, match=said):
        discovery.join("mpi", detect(SRUN), CPU)


@pytest.mark.parametrize(
    ("with_mpi", "why"),
    [(False, "no MPI, only Gloo, which mpirun tells"), (True, "different MPIs")],
)
def test_a_horovod_without_mpi_under_mpirun_is_called_so(
    with_mpi: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(is_initialized=lambda: False, mpi_built=lambda: with_mpi)
    monkeypatch.setitem(sys.modules, "horovod.torch", library)
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    monkeypatch.setitem(discovery.WORLDS, "horovod", lambda workers, device: SimpleNamespace(n=1))
    with pytest.raises(ConfigurationError, match=f"mpirun started 2 processes.* {why}"):
        discovery.join("horovod", detect(MPIRUN), CPU)


@pytest.mark.parametrize("by_script", [True, False])
def test_ranks_that_no_launcher_told_of_are_believed_if_the_script_has_them(
    by_script: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(is_initialized=lambda: by_script)
    monkeypatch.setitem(sys.modules, "horovod.torch", library)
    monkeypatch.setitem(discovery.WORLDS, "horovod", lambda workers, device: SimpleNamespace(n=2))
    if by_script:
        assert discovery.join("horovod", detect({}), CPU).n == 2
    else:
        with pytest.raises(ConfigurationError, match="started 1 processes, but horovod joined 2"):
            discovery.join("horovod", detect({}), CPU)


def test_a_lone_process_of_a_job_of_several_tasks_is_refused_by_both_doors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in SBATCH.items():
        monkeypatch.setenv(name, value)
    model = nn.Linear(2, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match=r"4 tasks .*, but one.*world=Simulated\(1\)"):
        hpc_localsgd.attach(model, sgd, schedule="every")
    with pytest.raises(ConfigurationError, match="4 tasks .*TASKS.*, but one.*--world simulated"):
        join_world(detect(SBATCH))
    assert join_world(detect(SBATCH), workers=3).K == 3
    hpc_localsgd.attach(model, sgd, schedule="every", world=Simulated(1)).detach()


def test_attach_is_refused_before_torch_connects_to_hosts_that_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_name_is_loopback = HostNetwork("n7", ("127.0.1.1",), (Interface("ib0", "10.1.0.7"),))
    monkeypatch.setattr(reachability, "network_here", lambda: own_name_is_loopback)
    for name, value in {**TORCHRUN, "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(discovery.WORLDS, "torch", lambda *_: pytest.fail("it connects"))
    model = nn.Linear(2, 1)
    with pytest.raises(ConfigurationError, match=r"n7 calls itself 127\.0\.1\.1"):
        hpc_localsgd.attach(model, torch.optim.SGD(model.parameters()), schedule="every")


@pytest.mark.parametrize("by_script", [False, True])
def test_a_library_that_the_script_has_connected_is_not_tried_again(
    by_script: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ranks have reached each other, by whatever path the script chose."""
    asked: list[object] = []
    monkeypatch.setattr(discovery, "_initialised", lambda kind: by_script)
    monkeypatch.setattr(discovery, "check_before", lambda *given: asked.append(given))
    monkeypatch.setitem(discovery.WORLDS, "horovod", lambda workers, device: SimpleNamespace(n=2))
    discovery.join("horovod", detect(TORCHRUN), CPU)
    assert len(asked) == (0 if by_script else 1)
