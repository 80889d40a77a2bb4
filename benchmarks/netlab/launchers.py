"""How each launcher is told to fill the hosts of a network: pure functions of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.netlab import cables
from benchmarks.netlab.network import Network

LAUNCHERS = ("mpirun", "horovodrun", "gloo", "torchrun", "none")
PORT = 29511  # of the first host, where nothing else is
# One transport between hosts, and memory within: what PyPI's Open MPI finds best varies.
ENVIRON = {
    "OMP_NUM_THREADS": "1",
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,sm,tcp",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PYTHONUNBUFFERED": "1",
}
_OF_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "HOROVOD_", "SLURM_")


def commands(
    network: Network, launcher: str, command: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """Return what to start and on which host: one command, or one a host.

    Args:
        network: Whose hosts to fill.
        launcher: `mpirun`; `horovodrun` over MPI; `gloo`, which is `horovodrun --gloo`; `torchrun`;
            or `none`, for one process on the first host.
        command: Of a rank.
    """
    first, each = network.names[0], network.ranks_per_host
    counts = ",".join(f"{name}:{each}" for name in network.names)
    n = str(network.ranks)
    if launcher == "mpirun":
        return [(first, ["mpirun", "-np", n, "--bind-to", "none", "--host", counts, *command])]
    if launcher in ("horovodrun", "gloo"):
        by = ["--gloo"] if launcher == "gloo" else ["--mpi"]
        # It caches its looks at hosts in the home folder, for an hour.
        words = ["horovodrun", *by, "-np", n, "--disable-cache", "-H", counts]
        return [(first, [*words, *command])]
    if launcher == "torchrun":
        words = ["torchrun", f"--nnodes={network.hosts}", f"--nproc-per-node={each}"]
        words += ["--rdzv-backend=c10d", f"--rdzv-endpoint={cables.address(0)}:{PORT}"]
        words += ["--rdzv-id=lab", "--no-python", *command]
        return [(name, words) for name in network.names]
    return [(first, list(command))]


def environ(inherited: Mapping[str, str], root: str, programs: str) -> dict[str, str]:
    """Return the environment of a launch: what a person set stays, an outer launcher's goes.

    Args:
        inherited: That of the lab.
        root: Of the checkout, so that ranks import it.
        programs: The folder of the launchers.
    """
    kept = {k: v for k, v in inherited.items() if not k.startswith(_OF_LAUNCHERS) or "_MCA_" in k}
    path = ":".join(filter(None, [root, kept.get("PYTHONPATH")]))
    beside = ":".join(filter(None, [programs, kept.get("PATH")]))
    return {**ENVIRON, **kept, "PYTHONPATH": path, "PATH": beside}
