"""K workers inside one process: the same algorithms, the same numbers, a modelled network."""

from __future__ import annotations

import torch

from hpc_localsgd.cost.cost_model import NETWORKS, Network
from hpc_localsgd.worlds.base import World
from hpc_localsgd.worlds.transport import Alone


class Simulated(World):
    """K workers in this process. `Simulated(1)` is plain training; there is no special case.

    Its ledger counts the payload like any other world, but its seconds of communication are what
    the cost model predicts for K ranks on the given network (`clock = modelled` in the record).
    """

    def __init__(
        self,
        workers: int | None = 1,
        device: torch.device | str = "cpu",
        network: Network = NETWORKS["10GbE"],
    ) -> None:
        super().__init__(workers, Alone(), torch.device(device), network)

    def __repr__(self) -> str:
        """Name the network that the modelled seconds are of."""
        return f"simulated({self.K} workers, {self.device}, {self.network and self.network.name})"
