"""The world that a run lives in, from the launcher and the options."""

from __future__ import annotations

import torch

from hpc_localsgd.commands.configuration.config import Config
from hpc_localsgd.cost.network_file import network
from hpc_localsgd.engine.discovery import SIMULATED, join, kind_of_world
from hpc_localsgd.engine.launch import Launch
from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.placement import Placement
from hpc_localsgd.worlds.simulated import Simulated


def make_world(config: Config, launch: Launch) -> World:
    """Make the world that the options of a run ask for, on this rank's device.

    Raises:
        ConfigurationError: The library is missing, or there are fewer workers than ranks.
    """
    return join_world(launch, config.world, config.device, config.workers, config.fabric)


def join_world(
    launch: Launch,
    kind: str = "auto",
    device: str = "auto",
    workers: int | None = None,
    fabric: str = "10GbE",
) -> World:
    """Make a world of a kind, on this rank's device.

    Args:
        launch: How this process was started.
        kind: auto, simulated, horovod, mpi or torch, as `--world`.
        device: As `--device`.
        workers: K; None for one a rank.
        fabric: The network whose seconds the simulated world counts.

    Raises:
        ConfigurationError: The library is missing, or there are fewer workers than ranks.
    """
    if kind == "auto":
        kind = kind_of_world(launch, "say --world simulated --workers K" if workers is None else "")
    n = launch.started
    if kind == SIMULATED:
        if n != 1:
            raise ConfigurationError(
                f"{launch.launcher} started {n} processes, and the simulated world is one: "
                "start it without a launcher, or use --world horovod or mpi"
            )
        return Simulated(workers, device_for(device, 0), network(fabric))
    if n is not None and workers is not None:
        Placement(workers, n)  # raises before anything connects
    return join(kind, launch, device_for(device, launch.local_rank), workers)


def device_for(name: str, local_rank: int | None) -> torch.device:
    """Return the device asked for; for a bare "cuda" the GPU of this rank.

    Raises:
        ConfigurationError: It cannot be used, or nobody says which GPU is this rank's.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU")
            if ":" not in name:
                gpus = max(1, torch.cuda.device_count())
                if local_rank is None and gpus > 1:
                    raise ConfigurationError(
                        f"this host has {gpus} GPUs, and the launcher does not say which rank of "
                        "the host this is: set CUDA_VISIBLE_DEVICES for each rank (srun "
                        "--gpus-per-task=1), or give LOCAL_RANK"
                    )
                device = torch.device("cuda", (local_rank or 0) % gpus)
            torch.cuda.set_device(device)  # events and NCCL's barrier use the current device
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ConfigurationError(
            f"--device {name} cannot be used here ({why}): type --device cpu, or leave it out"
        ) from error
    return device
